package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/policies"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/state"
	"github.com/drv-thru/drv-thru/core/builder"
	"github.com/drv-thru/drv-thru/core/wire"
)

// maxAnswer bounds an answer.
const maxAnswer = 64 << 20

// Client asks the builder at a socket.
type Client struct {
	path string
	http http.Client
}

// answerWait is how long the builder has to answer, or ten times that to begin with
// what may take as long as it likes.
const answerWait = time.Minute

// NewClient makes a client of the socket at path. It connects when asked.
func NewClient(path string) *Client { return newClient(path, answerWait) }

func newClient(path string, wait time.Duration) *Client {
	c := &Client{path: path}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		DisableKeepAlives:     true,
		ResponseHeaderTimeout: 10 * wait,
	}
	c.http.Timeout = wait
	return c
}

// SocketError means that the socket cannot be reached.
type SocketError struct {
	Path string
	Err  error
}

func (e *SocketError) Error() string {
	if errors.Is(e.Err, fs.ErrPermission) {
		return fmt.Sprintf("may not talk to the builder: no access to %s", e.Path)
	}
	return fmt.Sprintf("the builder is not running: nothing answers at %s", e.Path)
}

func (e *SocketError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *SocketError) Hint() string {
	if errors.Is(e.Err, fs.ErrPermission) {
		return "run this as root, or as a member of the socket's group"
	}
	return "start it with: drv-thru serve, or as a service: systemctl start drv-thru; or name its socket with --admin-socket or DRV_THRU_ADMIN_SOCKET"
}

// Exit is the exit code for an unreachable builder.
func (e *SocketError) Exit() int { return wire.ExitUnreachable }

// SilentError means that the socket is there, and nobody answers. systemd has it
// open while the builder starts, again and again where that fails.
type SilentError struct {
	Path string
	Err  error
}

func (e *SilentError) Error() string {
	return fmt.Sprintf("the builder does not answer at %s", e.Path)
}

func (e *SilentError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *SilentError) Hint() string {
	return "it may not come up; see why: systemctl status drv-thru, journalctl -u drv-thru"
}

// Exit is the exit code for an unreachable builder.
func (e *SilentError) Exit() int { return wire.ExitUnreachable }

// call makes a request, with in as its document unless that is nil. What it returns is
// never nil.
func call[T any](ctx context.Context, c *Client, method, path string, in any) (*T, error) {
	out := new(T)
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return out, fmt.Errorf("ask the builder: %w", err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://builder"+path, body)
	if err != nil {
		return out, fmt.Errorf("ask the builder: %w", err)
	}
	resp, err := c.do(&c.http, req)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return out, fmt.Errorf("read the builder's answer: %w", err)
	}
	return out, nil
}

// list is call for several.
func list[T any](ctx context.Context, c *Client, method, path string) ([]T, error) {
	all, err := call[[]T](ctx, c, method, path, nil)
	return *all, err
}

// do sends a request and turns a refusal into an error.
func (c *Client) do(client *http.Client, req *http.Request) (*http.Response, error) {
	resp, err := client.Do(req)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ECONNREFUSED) {
			return nil, &SocketError{c.path, err}
		}
		if slow := net.Error(nil); errors.As(err, &slow) && slow.Timeout() && req.Context().Err() == nil {
			return nil, &SilentError{c.path, err}
		}
		return nil, fmt.Errorf("ask the builder: %w", err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		defer resp.Body.Close()
		err := wire.ReadError(resp)
		if refused := (*wire.Error)(nil); errors.As(err, &refused) && refused.Code == wire.CodeBadRequest && refused.Detail != "" {
			err = &refusal{refused}
		}
		return nil, err
	}
	return resp, nil
}

// refusal is why the owner cannot have something. The request was understood well
// enough to say so.
type refusal struct{ err *wire.Error }

func (r *refusal) Error() string { return r.err.Detail }
func (r *refusal) Unwrap() error { return r.err }

// stream asks for what may take as long as it likes.
func (c *Client) stream(ctx context.Context, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://builder"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask the builder: %w", err)
	}
	patient := c.http
	patient.Timeout = 0
	resp, err := c.do(&patient, req)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Status asks how the builder is.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return call[Status](ctx, c, http.MethodGet, "/v1/status", nil)
}

// Tickets lists the tickets, oldest first.
func (c *Client) Tickets(ctx context.Context) ([]Ticket, error) {
	return list[Ticket](ctx, c, http.MethodGet, "/v1/tickets")
}

// CreateTicket makes a ticket.
func (c *Client) CreateTicket(ctx context.Context, n NewTicket) (*TicketText, error) {
	return call[TicketText](ctx, c, http.MethodPost, "/v1/tickets", n)
}

// Ticket finds one by its ID, a beginning of it, or its name.
func (c *Client) Ticket(ctx context.Context, id string) (*Ticket, error) {
	return call[Ticket](ctx, c, http.MethodGet, "/v1/tickets/"+url.PathEscape(id), nil)
}

// Reveal returns a ticket's text again.
func (c *Client) Reveal(ctx context.Context, id string) (*TicketText, error) {
	return call[TicketText](ctx, c, http.MethodGet, "/v1/tickets/"+url.PathEscape(id)+"/text", nil)
}

// Revoke ends a ticket, and with cancel the builds that it pays for.
func (c *Client) Revoke(ctx context.Context, id string, cancel bool) (*Revoked, error) {
	path := "/v1/tickets/" + url.PathEscape(id)
	if cancel {
		path += "?cancel=true"
	}
	return call[Revoked](ctx, c, http.MethodDelete, path, nil)
}

// CollectGarbage removes what has had its time, or with dryRun only tells.
func (c *Client) CollectGarbage(ctx context.Context, dryRun bool) ([]builder.Garbage, error) {
	path := "/v1/gc"
	if dryRun {
		path += "?dry_run=true"
	}
	return list[builder.Garbage](ctx, c, http.MethodPost, path)
}

// Steer pauses, resumes, drains or undrains.
func (c *Client) Steer(ctx context.Context, action string) (*Status, error) {
	return call[Status](ctx, c, http.MethodPost, "/v1/queue/"+url.PathEscape(action), nil)
}

// Policies lists the builder's policies by name.
func (c *Client) Policies(ctx context.Context) ([]policies.Info, error) {
	return list[policies.Info](ctx, c, http.MethodGet, "/v1/policies")
}

// Decisions returns the newest n decisions of policies, the newest first.
func (c *Client) Decisions(ctx context.Context, n int) ([]state.Decision, error) {
	return list[state.Decision](ctx, c, http.MethodGet, "/v1/decisions?n="+strconv.Itoa(n))
}
