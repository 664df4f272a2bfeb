package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/drv-thru/drv-thru/core/key"
	"github.com/drv-thru/drv-thru/core/nix"
	"github.com/drv-thru/drv-thru/core/ticket"
)

// buildersEnv names the one builders.json to heed, in place of the two.
const buildersEnv = envPrefix + "_BUILDERS_CONFIG"

// systemBuilders is the machine's builders.json.
const systemBuilders = "/etc/drv-thru/builders.json"

// maxEndpointFile bounds an endpoint_id_file.
const maxEndpointFile = 4 << 10

// builderName is what a builder may be called.
var builderName = pattern(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// pattern is a regular expression that is compiled when it is asked for. One that counts
// takes long, and every command would start with it.
func pattern(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

// buildersFile is builders.json.
type buildersFile struct {
	Builders map[string]builderEntry `json:"builders"`
}

// builderEntry is a builder that trusts this client's key.
type builderEntry struct {
	EndpointID     string   `json:"endpoint_id,omitempty"`
	EndpointIDFile string   `json:"endpoint_id_file,omitempty"` // instead; absolute
	RelayURL       string   `json:"relay_url,omitempty"`
	RelayURLs      []string `json:"relay_urls,omitempty"` // instead
	// PublicKey is what the builder signs with; "" leaves that open.
	PublicKey string `json:"public_key,omitempty"`
}

// check says what is wrong with an entry, without reading other files. Its keys are
// called what spell makes of them.
func (e *builderEntry) check(spell func(key string) string) error {
	switch {
	case (e.EndpointID == "") == (e.EndpointIDFile == ""):
		return fmt.Errorf("want %s or %s, and not both", spell("endpoint_id"), spell("endpoint_id_file"))
	case e.EndpointIDFile != "" && !filepath.IsAbs(e.EndpointIDFile):
		return fmt.Errorf("%s %q is no absolute path", spell("endpoint_id_file"), e.EndpointIDFile)
	case e.RelayURL != "" && e.RelayURLs != nil:
		return errors.New("want relay_url or relay_urls, and not both")
	case len(e.RelayURLs) > ticket.MaxRelays:
		return fmt.Errorf("%d relay_urls; at most %d", len(e.RelayURLs), ticket.MaxRelays)
	}
	if e.EndpointID != "" {
		if _, err := key.ParseID(e.EndpointID); err != nil {
			return fmt.Errorf("%s: %w", spell("endpoint_id"), err)
		}
	}
	for _, u := range e.relays() {
		if err := ticket.CheckRelayURL(u); err != nil {
			return err
		}
	}
	if e.PublicKey != "" {
		if _, err := nix.ParsePublicKey(e.PublicKey); err != nil {
			return fmt.Errorf("%s: %w", spell("public_key"), err)
		}
	}
	return nil
}

// asKey and asFlag are how a key of builders.json is spelled there, and as a flag.
func asKey(key string) string  { return key }
func asFlag(key string) string { return "--" + strings.ReplaceAll(key, "_", "-") }

func (e *builderEntry) relays() []string {
	if e.RelayURL != "" {
		return []string{e.RelayURL}
	}
	return e.RelayURLs
}

// id returns the builder's endpoint ID.
func (e *builderEntry) id() (key.ID, error) {
	if e.EndpointIDFile == "" {
		return key.ParseID(e.EndpointID)
	}
	text, err := readBounded(e.EndpointIDFile, maxEndpointFile)
	if err != nil {
		return key.ID{}, fmt.Errorf("read endpoint_id_file: %w", err)
	}
	id, err := key.ParseID(strings.TrimSpace(string(text)))
	if err != nil {
		return id, fmt.Errorf("%s: %w", e.EndpointIDFile, err)
	}
	return id, nil
}

// readBuilders reads a builders.json; one that does not exist has no builders.
func readBuilders(path string) (map[string]builderEntry, error) {
	var file buildersFile
	if err := readJSON(path, &file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read builders: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(file.Builders)) {
		if !builderName().MatchString(name) {
			return nil, fmt.Errorf("%s: builder %q: a name is letters, digits, dots, - and _", path, name)
		}
		e := file.Builders[name]
		if err := e.check(asKey); err != nil {
			return nil, fmt.Errorf("%s: builder %q: %w", path, name, err)
		}
	}
	return file.Builders, nil
}

// ownBuilders is the builders.json that commands change.
func (a *app) ownBuilders() (string, error) {
	if path := a.env(buildersEnv); path != "" {
		return path, nil
	}
	dir, err := a.configDir()
	if err != nil {
		return "", &hintError{err, "name a builders.json with " + buildersEnv}
	}
	return filepath.Join(dir, "builders.json"), nil
}

// savedBuilder is a builder with its name and where that is written down.
type savedBuilder struct {
	name string
	file string
	builderEntry
}

// builders returns the builders that have names, in the order of these. The
// user's hide the machine's of the same name.
func (a *app) builders() ([]savedBuilder, error) {
	files := []string{systemBuilders}
	if path := a.env(buildersEnv); path != "" {
		files = []string{path}
	} else if own, err := a.ownBuilders(); err == nil {
		files = append(files, own)
	}
	all := make(map[string]savedBuilder)
	for _, file := range files {
		entries, err := readBuilders(file)
		if err != nil {
			return nil, err
		}
		for name, e := range entries {
			all[name] = savedBuilder{name, file, e}
		}
	}
	return slices.SortedFunc(maps.Values(all), func(x, y savedBuilder) int { return strings.Compare(x.name, y.name) }), nil
}

// resolveBuilder finds a builder by its name in builders.json, and the key to
// be its trusted client with: the one in keyFile, "" for the user's.
func (a *app) resolveBuilder(name, keyFile string) (*route, error) {
	all, err := a.builders()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(b savedBuilder) bool { return b.name == name })
	if i < 0 {
		e := &usageError{text: fmt.Sprintf("no builder is called %q", name)}
		if len(all) == 0 {
			e.hint = "write it down with: drv-thru builders add " + name + " --endpoint-id ID --relay-url URL\nor name it by --server ID with --relay-url URL"
			return nil, e
		}
		names := make([]string, len(all))
		for i, b := range all {
			names[i] = b.name
		}
		e.hint = "there are: " + strings.Join(names, ", ")
		return nil, e
	}
	return a.savedRoute(&all[i], keyFile)
}

// noRelays is what a builder has that cannot be reached.
const noRelays = "neither relay_url nor relay_urls"

func (a *app) savedRoute(b *savedBuilder, keyFile string) (*route, error) {
	id, err := b.id()
	if err != nil {
		return nil, fmt.Errorf("builder %s of %s: %w", b.name, b.file, err)
	}
	r := &route{builder: id, relays: b.relays(), signingKey: b.PublicKey}
	if len(r.relays) == 0 {
		return nil, fmt.Errorf("builder %s of %s has %s to reach it through", b.name, b.file, noRelays)
	}
	r.identity, err = a.identity(keyFile)
	return r, err
}

// checkKey fails when the builder signs with another key than it was said to.
func (r *route) checkKey(signing string) error {
	if r.signingKey == "" || r.signingKey == signing {
		return nil
	}
	return &otherKeyError{signing, r.signingKey}
}

// otherKeyError is a builder that signs with another key than it was said to.
type otherKeyError struct{ signing, want string }

func (e *otherKeyError) Error() string {
	return fmt.Sprintf("the builder signs with %s, not with %s as builders.json says", e.signing, e.want)
}

func (e *otherKeyError) Hint() string {
	return "ask its owner; if its key has changed: drv-thru builders add --replace"
}

// changeBuilders changes the builders.json that is the user's own, one process at a time.
func (a *app) changeBuilders(change func(file string, all map[string]builderEntry) error) error {
	file, err := a.ownBuilders()
	if err != nil {
		return err
	}
	dir := filepath.Dir(file)
	_ = os.MkdirAll(dir, 0o700) // replaceFile tells why that cannot be
	if d, err := os.Open(dir); err == nil {
		defer d.Close()
		_ = unix.Flock(int(d.Fd()), unix.LOCK_EX) // not every file system can
	}
	all, err := readBuilders(file)
	if err != nil {
		return err
	}
	if all == nil {
		all = make(map[string]builderEntry)
	}
	if err := change(file, all); err != nil {
		return err
	}
	text, err := json.MarshalIndent(buildersFile{all}, "", "  ")
	if err != nil {
		return fmt.Errorf("write builders: %w", err)
	}
	if err := replaceFile(file, append(text, '\n')); err != nil {
		return fmt.Errorf("write builders: %w", err)
	}
	return nil
}
