//go:build e2e

package e2e

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/drv-thru/drv-thru/e2e/lab"
)

// The NixOS module on real Nix: what configurations come to, what they are
// refused for, and what no option takes. nixpkgs cannot be had here, so the
// options are those of nixos/tests/harness.nix.
func TestNixOSModule(t *testing.T) {
	text, err := os.ReadFile("../nixos/tests/configs.json")
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]any
	decode(t, string(text), &want)
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		n := newModule(t, root)

		var got map[string]any
		n.eval(t, &got, "-A", "configs")
		for _, name := range slices.Sorted(maps.Keys(got)) {
			if !reflect.DeepEqual(got[name], want[name]) {
				t.Errorf("configs.%s is\n%s\nnixos/tests/configs.json has\n%s", name, indent(t, got[name]), indent(t, want[name]))
			}
		}
		if len(got) != len(want) {
			t.Errorf("%d configurations, %d in nixos/tests/configs.json", len(got), len(want))
		}

		var refused map[string][]string
		n.eval(t, &refused, "-A", "refused")
		for name, messages := range refused {
			if len(messages) != 1 || !strings.Contains(messages[0], refusals[name]) || refusals[name] == "" {
				t.Errorf("refused.%s fails %q; want one that says %q", name, messages, refusals[name])
			}
		}
		if len(refused) != len(refusals) {
			t.Errorf("%d configurations are refused, %d are to be", len(refused), len(refusals))
		}

		for _, list := range []string{"undocumented", "unlike", "untyped"} {
			var options []string
			if n.eval(t, &options, "-A", list); len(options) > 0 {
				t.Errorf("%s: %v", list, options)
			}
		}
	})
}

// refusals are what the assertions say.
var refusals = map[string]string{
	"oneKeyTwice":         "trustedClients: laptop and old-laptop have the same publicKey",
	"trustedUser":         "nix.settings.trusted-users has drv-thru,",
	"trustedEverybody":    "nix.settings.trusted-users has *,",
	"trustedExtra":        "nix.settings.trusted-users has @drv-thru,",
	"trustedGroup":        "nix.settings.trusted-users has @wheel,",
	"trustedMember":       "nix.settings.trusted-users has @admins,",
	"notAllowed":          `Add "drv-thru"`,
	"notSandboxed":        "Set nix.settings.sandbox = true",
	"halfSandboxed":       "Set nix.settings.sandbox = true",
	"noNix":               "Set nix.enable = true",
	"nowhere":             "Name a relay in relays, or set embeddedRelay.enable = true",
	"openForNothing":      "openFirewall opens the ports of listen and of the relay inside, and there is neither",
	"lowListen":           "server.listen: the builder may not listen on ports below 1024",
	"listenAtRelayInside": "listen and embeddedRelay.listen both have port 7411",
	"listenAtRelay":       "server.listen and relay.listen both have port 7411",
	"announceNothing":     "Set listen",
	"metricsForAll":       "other machines would reach 0.0.0.0:9412",
	"strayToken":          "relayTokenFiles: https://relay.example.org is none of relays",
	"unknownPolicy":       "there is no policy called nightly",
	"policyName":          "which every night is not",
	"builderOfNobody":     "set either endpointId or endpointIdFile of attic",
	"builderTwoWays":      "set either relayUrl or relayUrls of attic",
	"builderOfNineRelays": "there is room for 8 relayUrls, and attic has more",
	"builderTwice":        "attic has an endpointId in client.trustedBuilders as well",
	"builderName":         "my attic cannot be the name of a builder or mount",
	"mountOfUnknown":      "builder names none of client.builders for attic",
	"lowPort":             "embeddedRelay.listen: the builder may not listen on ports below 1024",
	"twoOnOnePort":        "both have port 7411",
	"certWithoutKey":      "tlsCert and tlsKey go together",
	"keyWithoutCert":      "tlsCert and tlsKey go together",
	"helperWithoutKeys":   "nothing can be imported without a key",
	"mountOfNobody":       "set one of ticketFile, builder and endpointId of attic",
	"mountOfTwo":          "set one of ticketFile, builder and endpointId of attic",
	"mountWithoutRelay":   "endpointId goes with relayUrls, which are missing of attic",
	"mountWithoutKey":     "set secretKeyFile of attic",
	"mountsInOnePlace":    "attic and cellar have the same directory",
	"acmeAndCert":         "tlsCert and tlsKey or by ACME",
	"acmeWithPort":        "names without a port, unlike relay.example.org:8443",
	"allowlistOfNobody":   "access = \"allowlist\" and allowedBuilders go together",
	"tokensUnused":        "access = \"token\" and tokenFiles go together",
	"oneNameTwoKeys":      "several keys that are called attic-1",
	"nameOfExtra":         "several keys that are called attic-1",
	"nameOfAnother":       "several keys that are called cache.nixos.org-1",
}

// A value that an option does not take is refused by the name of the option. The
// name is looked for on one Nix, as each takes an evaluation.
func TestNixOSModuleTypes(t *testing.T) {
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		n := newModule(t, root)
		var taken []string
		if n.eval(t, &taken, "-A", "taken"); len(taken) > 0 {
			t.Errorf("these are taken: %q", taken)
		}
		if root != lab.Trixie {
			return
		}
		var names []string
		n.eval(t, &names, "-A", "wrongNames")
		for _, name := range names {
			out, err := n.command("-A", `wrong."`+name+`"`).CombinedOutput()
			option, _, _ := strings.Cut(name, " ")
			if err == nil || !strings.Contains(string(out), "services.drv-thru."+option) {
				t.Errorf("%s: %v\n%s", name, err, out)
			}
		}
		if len(names) == 0 {
			t.Error("there are none")
		}
	})
}

// The configurations in README.md and docs are what the module takes.
func TestNixOSReadme(t *testing.T) {
	var all []docBlock
	for _, name := range pages(t) {
		for _, b := range blocks(t, name) {
			if b.language == "nix" {
				all = append(all, b)
			}
		}
	}
	if len(all) == 0 {
		t.Fatal("the pages have no configuration")
	}
	forEachRoot(t, func(t *testing.T, root lab.Root) {
		n := newModule(t, root)
		for _, b := range all {
			n.host.WriteFile(lab.RootUser, "/tmp/docs.nix", b.text)
			var config struct {
				Failed   []string
				Packages []string
				Services map[string]any
			}
			n.eval(t, &config, "--expr", "(import "+n.tests+" { }).of /tmp/docs.nix")
			if len(config.Failed) > 0 || len(config.Services)+len(config.Packages) == 0 {
				t.Errorf("%v: it has the services %v and fails %q", b, slices.Sorted(maps.Keys(config.Services)), config.Failed)
			}
		}
	})
}

// module is the NixOS module on a host.
type module struct {
	host  *lab.Host
	tests string
}

func newModule(t *testing.T, root lab.Root) module {
	n := module{lab.NewHost(t, root), "/tmp/module/nixos/tests"}
	for name, text := range moduleFiles(t) {
		n.host.WriteFile(lab.RootUser, filepath.Join("/tmp/module", name), text)
	}
	return n
}

// command evaluates nixos/tests, or whatever an --expr in args says.
func (n module) command(args ...string) *lab.Cmd {
	argv := []string{"nix-instantiate", "--eval", "--strict", "--json"}
	if !slices.Contains(args, "--expr") {
		argv = append(argv, n.tests)
	}
	return n.host.Command(lab.RootUser, append(argv, args...)...)
}

func (n module) eval(t *testing.T, to any, args ...string) {
	t.Helper()
	decode(t, n.host.Must(n.command(args...)), to)
}

func indent(t *testing.T, v any) string {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
