package relay

import (
	"crypto/sha256"
	"net/http"
	"strings"

	"github.com/coder/websocket"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/wire"
)

// Access says which builders may register. Clients need no permission: they
// reach only builders that have one. The zero value lets everybody in.
type Access struct {
	builders map[key.ID]bool
	tokens   map[[sha256.Size]byte]bool
}

// AllowBuilders lets in the builders of ids and nobody else.
func AllowBuilders(ids []key.ID) Access {
	a := Access{builders: map[key.ID]bool{}}
	for _, id := range ids {
		a.builders[id] = true
	}
	return a
}

// AllowTokens lets in builders that show one of the tokens.
func AllowTokens(tokens []string) Access {
	a := Access{tokens: map[[sha256.Size]byte]bool{}}
	for _, t := range tokens {
		a.tokens[sha256.Sum256([]byte(t))] = true
	}
	return a
}

// credential is what a builder has shown: the hash of its token. Looking a
// hash up tells nothing of how near a guess is.
type credential [sha256.Size]byte

func credentialOf(r *http.Request) credential {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return credential{}
	}
	return sha256.Sum256([]byte(strings.TrimSpace(token)))
}

// admitsToken is asked in the handshake, before the builder has said who it is.
func (a Access) admitsToken(c credential) bool { return a.tokens == nil || a.tokens[c] }

// admits is asked once the builder has proved who it is.
func (a Access) admits(id key.ID, c credential) bool {
	return (a.builders == nil || a.builders[id]) && a.admitsToken(c)
}

func accessError() error {
	return wire.CodeRelayAccess.Err().WithHint("ask the relay's owner to let this builder in, or for a token")
}

// SetAccess changes who may register. Registrations that would not be let in
// any more are closed; circuits that are open go on.
func (s *Server) SetAccess(a Access) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.access = a
	for _, reg := range s.builders {
		if !a.admits(reg.id, reg.shown) && s.closing.Err() == nil {
			reg.leave()
			s.work.Add(1)
			go func() {
				defer s.work.Done()
				_ = reg.ws.Close(websocket.StatusCode(wire.RelayCloseProof), string(wire.CodeRelayAccess))
			}()
		}
	}
}

func (s *Server) currentAccess() Access {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.access
}
