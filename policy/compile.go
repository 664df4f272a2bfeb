package policy

import (
	"context"
	"fmt"
	"slices"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// compile makes the module's own runtime, so that nothing is shared between
// policies and closing one frees all that it took.
func (m *Module) compile(ctx context.Context, code []byte) error {
	cfg := wazero.NewRuntimeConfig()
	if m.info.Interpreted {
		cfg = wazero.NewRuntimeConfigInterpreter()
	}
	// Memory is bounded by the allocator of an instance, which notices that
	// more was asked for.
	cfg = cfg.WithCoreFeatures(api.CoreFeaturesV2).WithCloseOnContextDone(true).WithDebugInfoEnabled(false)

	disk := openDisk(m.host.cfg.CacheDir, m.info.Hash, m.host.cfg.Clock())
	err := m.compileWith(ctx, cfg, code, disk.dir())
	if err != nil && disk != nil && ctx.Err() == nil {
		disk.drop()
		disk = nil
		err = m.compileWith(ctx, cfg, code, "")
	}
	if err != nil {
		if ctx.Err() != nil {
			return &Error{Code: CodeCanceled, Detail: err.Error(), Err: ctx.Err()}
		}
		return &Error{Code: CodeInvalid, Detail: err.Error(), Err: err}
	}
	disk.seal()
	return nil
}

func (m *Module) compileWith(ctx context.Context, cfg wazero.RuntimeConfig, code []byte, dir string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the compiler panicked: %v", r)
		}
		if err != nil {
			m.release()
		}
	}()
	if dir != "" {
		if m.cache, err = wazero.NewCompilationCacheWithDir(dir); err != nil {
			m.cache = nil
			return err
		}
		cfg = cfg.WithCompilationCache(m.cache)
	}
	m.runtime = wazero.NewRuntimeWithConfig(ctx, cfg)
	if err = instantiateWASI(ctx, m.runtime); err != nil {
		return err
	}
	m.compiled, err = m.runtime.CompileModule(ctx, code)
	return err
}

// checkTypes refuses what an instance would otherwise fail for: imports of the
// wrong type, and no _start that can be called.
func (m *Module) checkTypes() error {
	given := m.runtime.Module(wasiModule).ExportedFunctionDefinitions()
	for _, f := range m.compiled.ImportedFunctions() {
		_, name, _ := f.Import()
		if def := given[name]; def == nil || !sameType(def, f) {
			return errorf(CodeImports, "imports %q with a type that is not WASI's", name)
		}
	}
	start := m.compiled.ExportedFunctions()["_start"]
	if start == nil || len(start.ParamTypes()) > 0 || len(start.ResultTypes()) > 0 {
		return errorf(CodeInvalid, "no WASI command: it exports no function _start without parameters")
	}
	return nil
}

func sameType(a, b api.FunctionDefinition) bool {
	return slices.Equal(a.ParamTypes(), b.ParamTypes()) && slices.Equal(a.ResultTypes(), b.ResultTypes())
}
