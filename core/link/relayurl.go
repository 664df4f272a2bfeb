package link

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// ErrRelayURL is wrapped by every error of [RelayURL].
var ErrRelayURL = errors.New("not a relay URL")

// RelayURL checks a relay's URL and brings it into its plain form: scheme http
// or https (ws and wss mean the same), host, a port that is not the scheme's, a path
// without a slash at its end. Credentials, queries and fragments are refused: they would end up
// in tickets and logs.
func RelayURL(text string) (string, error) {
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil {
		return "", fmt.Errorf("%w: %v", ErrRelayURL, errors.Unwrap(err))
	}
	port := ""
	switch strings.ToLower(u.Scheme) {
	case "http", "ws":
		u.Scheme, port = "http", ":80"
	case "https", "wss":
		u.Scheme, port = "https", ":443"
	default:
		return "", fmt.Errorf("%w: %q has to begin with https:// or http://", ErrRelayURL, text)
	}
	if u.Hostname() == "" || u.Opaque != "" {
		return "", fmt.Errorf("%w: %q names no host", ErrRelayURL, text)
	}
	if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return "", fmt.Errorf("%w: only a host, a port and a path may follow the scheme", ErrRelayURL)
	}
	u.Host = strings.TrimSuffix(strings.ToLower(u.Host), port)
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = ""
	// Of a host, package url asks more with http than with ws.
	plain := u.String()
	if u, err := url.Parse(plain); err != nil || u.Hostname() == "" {
		return "", fmt.Errorf("%w: %q names no host", ErrRelayURL, text)
	}
	return plain, nil
}

// RelayURLs brings a list into its plain form and drops what is in it twice.
func RelayURLs(texts []string) ([]string, error) {
	var out []string
	for _, t := range texts {
		u, err := RelayURL(t)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(out, u) {
			out = append(out, u)
		}
	}
	return out, nil
}
