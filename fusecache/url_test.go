package fusecache

import "testing"

func TestFileURL(t *testing.T) {
	for dir, want := range map[string]string{
		"/run/drv-thru/home":       "file:///run/drv-thru/home",
		"/a_(1)/b~c!$&'*+,;=:@d.e": "file:///a_(1)/b~c!$&'*+,;=:@d.e",
		"/a b":                     "file:///a%20b",
		"/a#b?c%20":                "file:///a%23b%3Fc%2520",
		"/é":                       "file:///%C3%A9",
		"/\xff":                    "file:///%FF",
	} {
		if got := FileURL(dir); got != want {
			t.Errorf("%q: %s, want %s", dir, got, want)
		}
	}
}
