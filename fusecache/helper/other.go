//go:build !linux

package helper

import (
	"context"

	"github.com/drv-thru/drv-thru/core/cache"
)

// Check fails: the helper needs Linux.
func (c *Client) Check(context.Context, string) error { return ErrNoHelper }

// Import fails: the helper needs Linux.
func (c *Client) Import(context.Context, *cache.View, string, []string, Progress) error {
	return ErrNoHelper
}
