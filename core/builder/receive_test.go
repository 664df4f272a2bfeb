package builder

import (
	"errors"
	"io"
	"testing"

	"github.com/drv-thru/drv-thru/core/nix/daemon"
	"github.com/drv-thru/drv-thru/core/wire"
)

// An input that Nix does not take is its sender's fault.
func TestImportError(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want wire.Code
	}{
		{&daemon.Error{Msg: "derivation '\x1b[35;1m/nix/store/x.drv\x1b[0m' has incorrect output '\x1b[35;1m/nix/store/x\x1b[0m', should be '\x1b[35;1m/nix/store/y\x1b[0m'"}, wire.CodeInputDerivation},
		{&daemon.Error{Msg: "ca hash mismatch importing path '\x1b[35;1m/nix/store/x\x1b[0m';\n  specified: a\n  got:       b"}, wire.CodeInputAddress},
		{&daemon.Error{Msg: "cannot add path '/nix/store/x.drv' because its reference is not valid"}, wire.CodeStore},
		{io.ErrUnexpectedEOF, wire.CodeStore},
	} {
		rx := new(receiver)
		if err := rx.importError(tt.err); wire.CodeOf(err) != tt.want || !errors.Is(err, tt.err) || !rx.broken {
			t.Errorf("%v: got %v", tt.err, err)
		}
	}
}
