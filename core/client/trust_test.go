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
		"same name before it": {LocalTrust{Keys: []string{"builder-1:BBBB=", key}}, false, true},
		"same name behind it": {LocalTrust{Keys: []string{key, "builder-1:BBBB="}}, true, false},
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
		if instead := "in place of the other key"; strings.Contains(te.Hint(), instead) != c.same {
			t.Errorf("%s: %q is to be in the hint: %v\n%s", name, instead, c.same, te.Hint())
		}
		for _, want := range []string{"alice", key} {
			if !strings.Contains(te.Error(), want) || !strings.Contains(te.Hint(), want) {
				t.Errorf("%s: %q is not in both\n%s\n%s", name, want, te, te.Hint())
			}
		}
	}
}

// A builder says what its key is, and people paste what they are told.
func TestHostileKeys(t *testing.T) {
	const data = ":AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	var te *TrustError
	for _, key := range []string{
		"", "builder-1", "builder-1:AAAA=", "builder-1:AAAA= other:BBBB=", "builder-1" + data + "\nsubstituters = x",
		`a"];security.sudo.enable=false;x=["b` + data, "a$(id)" + data, "a`id`" + data, "a b" + data, "a#b" + data, "\x1b[2J" + data,
	} {
		if err := CheckTrust(key, LocalTrust{User: "alice"}); err == nil || errors.As(err, &te) || strings.ContainsAny(err.Error(), "\x1b\n") {
			t.Errorf("%q: %v", key, err)
		}
	}
}
