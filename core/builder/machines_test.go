package builder

import "testing"

func TestMachineName(t *testing.T) {
	for uri, want := range map[string]string{
		"ssh://a.example": "a.example",
		"ssh-ng://nix@a.example:2222?ssh-key=/root/.ssh/id&max-connections=1": "a.example:2222",
		"root@old.example":         "old.example",
		"ssh://root@[2001:db8::1]": "[2001:db8::1]",
		"daemon":                   "daemon",
		"ssh://b.example/":         "b.example",
	} {
		if got := MachineName(uri); got != want {
			t.Errorf("%s: %q, want %q", uri, got, want)
		}
	}
}

func TestWithoutURLs(t *testing.T) {
	for text, want := range map[string]string{
		"building '/nix/store/x.drv' on 'ssh-ng://nix@a.example?ssh-key=/root/id'":   "building '/nix/store/x.drv' on 'a.example'",
		"cannot build on ‘ssh://root@b:22’: failed to start SSH connection to 'b'\n": "cannot build on ‘b:22’: failed to start SSH connection to 'b'\n",
		"building openssh":            "building openssh",
		"https://ssh.example/a@b?c=d": "https://ssh.example/a@b?c=d",
		"":                            "",
	} {
		if got := withoutURLs(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
