package fusecache

import (
	"net/url"
	"regexp"
)

// notInURL is what no Nix takes in a file:// URL as it stands.
var notInURL = regexp.MustCompile(`[^A-Za-z0-9/._~!$&'()*+,;=:@-]`)

// FileURL returns the URL by which Nix finds a binary cache in the directory dir, an
// absolute path. It is file://dir where that can be: Nix 2.8 takes an escape for a part of
// a directory's name, and so finds no other.
func FileURL(dir string) string {
	return "file://" + notInURL.ReplaceAllStringFunc(dir, url.PathEscape)
}
