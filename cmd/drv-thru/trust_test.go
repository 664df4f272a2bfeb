package main

import (
	"slices"
	"testing"
)

func TestConfigKeys(t *testing.T) {
	for text, want := range map[string][]string{
		"":                                  nil,
		"trusted-public-keys = a:1= b:2=\n": {"a:1=", "b:2="},
		"  extra-trusted-public-keys\t= c:3= # d:4=\n":                                     {"c:3="},
		"# trusted-public-keys = a:1=\ntrusted-users = alice\n":                            nil,
		"extra-trusted-public-keys = a:1=\nextra-trusted-public-keys = b:2=\n":             {"a:1=", "b:2="},
		"trusted-public-keys = a:1=\ntrusted-public-keys = b:2=\n":                         {"b:2="},
		"trusted-public-keys=a:1=\ntrusted-public-keys\nsubstituters = x =\n= y":           nil,
		"trusted-public-keys = a:1=\nextra-trusted-public-keys = b:2=\nmax-jobs = auto\n ": {"a:1=", "b:2="},
		"trusted-public-keys = a:1=\n!include nix.custom.conf\n":                           nil,
		"include /etc/nix/keys.conf\ntrusted-public-keys = a:1=\n":                         nil,
		"# include = x\ntrusted-public-keys = a:1= # include x\n":                          {"a:1="},
	} {
		if got := configKeys(text); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
