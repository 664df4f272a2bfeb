package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/drv-thru/drv-thru/e2e/toolchain"
	"github.com/drv-thru/drv-thru/policy"
	"github.com/drv-thru/drv-thru/policy/builtin"
)

const (
	// policyTime bounds building and testing one policy.
	policyTime = 10 * time.Minute
	// policiesAtOnce is how many are built at a time; most compilers use one CPU.
	policiesAtOnce = 2
	// caseTime bounds a decision where a machine may be slow; a builder is
	// stricter.
	caseTime = 30 * time.Second
)

// policies builds every policy of the repository from its source with its own
// toolchain, compares the built-in one with the bytes in the program, and runs
// the others' own tests and tables of cases.
func (r *runner) policies() {
	all, err := toolchain.All(".")
	if err != nil {
		r.fail("policies", err.Error())
		return
	}
	errs, took := make([]error, len(all)), make([]time.Duration, len(all))
	var wg sync.WaitGroup
	free := make(chan struct{}, policiesAtOnce)
	for i := range all {
		wg.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			started := time.Now()
			errs[i] = checkPolicy(&all[i])
			took[i] = time.Since(started)
		})
	}
	wg.Wait()
	for i, p := range all {
		if errs[i] != nil {
			r.fail("policy "+p.Name, errs[i].Error())
			continue
		}
		r.pass()
		fmt.Printf("ok   policy %s (%v)\n", p.Name, took[i].Round(time.Second/10))
	}
}

func checkPolicy(p *toolchain.Policy) error {
	ctx, cancel := context.WithTimeout(context.Background(), policyTime)
	defer cancel()
	tmp, err := os.MkdirTemp("", "policies")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	folder, module, err := p.Build(ctx, tmp)
	if err != nil {
		return err
	}
	if p.Name == "builtin" {
		if !bytes.Equal(module, builtin.Limits) {
			return fmt.Errorf("policy/builtin/limits.wasm is not what limits.zig gives: %s here, %s there", policy.HashOf(builtin.Limits), policy.HashOf(module))
		}
		return nil
	}
	if err := p.Test(ctx, folder); err != nil {
		return err
	}
	cases, err := policy.ParseCases(p.Cases())
	if err != nil {
		return err
	}
	m, err := policy.NewHost(policy.Config{Wall: caseTime}).Load(ctx, module)
	if err != nil {
		return err
	}
	defer m.Close()
	for _, c := range cases {
		if _, err := m.Check(ctx, c); err != nil {
			return fmt.Errorf("case %q: %w", c.Name, err)
		}
	}
	return p.Keep(module)
}
