package client

import (
	"errors"
	"strings"
	"testing"
)

func TestCheckTrust(t *testing.T) {
	const key = "builder-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	for name, c := range map[string]struct {
		trust    LocalTrust
		ok, same bool
	}{
		"key trusted":         {LocalTrust{Keys: []string{"cache:x=", key}}, true, false},
		"user trusted":        {LocalTrust{UserTrusted: true}, true, false},
		"no signatures":       {LocalTrust{NoSigs: true}, true, false},
		"nothing":             {LocalTrust{}, false, false},
		"same name":           {LocalTrust{Keys: []string{"builder-1:BBBB="}}, false, true},
		"key without padding": {LocalTrust{Keys: []string{strings.TrimRight(key, "=")}}, false, true},
		"name is a prefix":    {LocalTrust{Keys: []string{"builder-10:AAAA="}}, false, false},
	} {
		c.trust.User = "alice"
		err := CheckTrust(key, c.trust)
		if c.ok {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		var te *TrustError
		if !errors.As(err, &te) || te.SameName != c.same {
			t.Errorf("%s: %#v", name, err)
			continue
		}
		for _, want := range []string{"alice", key} {
			if !strings.Contains(te.Error(), want) || !strings.Contains(te.Hint(), want) {
				t.Errorf("%s: %q is not in both\n%s\n%s", name, want, te, te.Hint())
			}
		}
	}
}
