package jwks

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/ringfence-mesh/ringfence/identity"
)

const (
	dialTimeout      = 5 * time.Second
	handshakeTimeout = 5 * time.Second
	maxHeader        = 16 << 10
	// maxBody is one byte more than the largest key set that is read, so that a longer one is refused and not cut.
	maxBody = 64<<10 + 1
)

var errStatus = errors.New("the server does not answer with a key set")

// newClient makes the client of all fetches. It holds nothing between them.
func newClient(c Config) *http.Client {
	dialer := &net.Dialer{Timeout: dialTimeout, Control: control(c.Allow), Resolver: c.Resolver}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  nil, // a proxy would resolve and connect where nobody judges it
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.Roots},
			TLSHandshakeTimeout:    handshakeTimeout,
			TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{}, // HTTP/1.1 is enough
			DisableKeepAlives:      true,                                                   // each connection is judged anew
			DisableCompression:     true,                                                   // what is read is what was sent
			MaxResponseHeaderBytes: maxHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// fetch gets a key set once.
func (f *Fetcher) fetch(ctx context.Context, uri string) (identity.KeySet, error) {
	ctx, cancel := context.WithTimeout(ctx, f.config.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, http.NoBody)
	if err != nil {
		return identity.KeySet{}, err
	}
	if req.URL.Scheme != "https" {
		return identity.KeySet{}, fmt.Errorf("%w: %s is no https URL", errStatus, uri)
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	req.Header.Set("User-Agent", "ringfence")
	resp, err := f.client.Do(req)
	if err != nil {
		return identity.KeySet{}, err
	}
	defer func() { _ = resp.Body.Close() }() // only read
	if resp.StatusCode != http.StatusOK {    // also a redirect
		return identity.KeySet{}, fmt.Errorf("%w: status %d", errStatus, resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return identity.KeySet{}, err
	}
	return identity.ParseKeySet(body)
}
