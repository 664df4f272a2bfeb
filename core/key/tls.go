package key

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// certSerial and the validity below are constants: the certificate only
// carries the key, and both ends check the key alone.
var (
	certSerial    = big.NewInt(1)
	certNotBefore = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	// RFC 5280 4.1.2.5: "no well-defined expiration date".
	certNotAfter = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// ErrWrongPeer means that the other end proved another identity than the one
// that was asked for.
var ErrWrongPeer = errors.New("peer has another identity")

// Certificate returns the self-signed certificate of the key. It is the same
// at every call: ed25519 signatures are deterministic.
func (s Secret) Certificate() (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: certSerial,
		Subject:      pkix.Name{CommonName: "drv-thru"},
		NotBefore:    certNotBefore,
		NotAfter:     certNotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	// ed25519 signing takes no randomness, so this reader is never used for the key.
	der, err := x509.CreateCertificate(rand.Reader, template, template, s.key.Public(), s.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: s.key}, nil
}

// ServerTLS returns a TLS 1.3 configuration that presents s and takes any
// client that proves an ed25519 identity; [PeerID] then tells which. The caller
// sets NextProtos.
func (s Secret) ServerTLS() (*tls.Config, error) {
	cert, err := s.Certificate()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAnyClientCert,
		// A resumed session would skip VerifyConnection's certificate in some
		// library versions, and a ticket key is one more secret to keep.
		SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := PeerID(cs)
			return err
		},
	}, nil
}

// ClientTLS returns a TLS 1.3 configuration that presents s and accepts only
// peer; anyone else fails the handshake with [ErrWrongPeer]. The caller sets
// NextProtos.
func (s Secret) ClientTLS(peer ID) (*tls.Config, error) {
	cert, err := s.Certificate()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		ServerName:   "drv-thru",
		// The chain of a self-signed certificate says nothing; the key says
		// everything and is checked in VerifyConnection.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			got, err := PeerID(cs)
			if err != nil {
				return err
			}
			if got != peer {
				return fmt.Errorf("%w: want %s, got %s", ErrWrongPeer, peer, got)
			}
			return nil
		},
	}, nil
}

// PeerID returns the identity that the other end of a TLS connection proved.
func PeerID(cs tls.ConnectionState) (ID, error) {
	if len(cs.PeerCertificates) == 0 {
		return ID{}, errors.New("peer sent no certificate")
	}
	public, ok := cs.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return ID{}, errors.New("peer's certificate holds no ed25519 key")
	}
	return ID(public), nil
}
