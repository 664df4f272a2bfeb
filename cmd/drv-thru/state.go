package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/peterbourgon/ff/v3/ffcli"

	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/admin"
	"github.com/drv-thru/drv-thru/cmd/drv-thru/internal/term"
)

func newStateCommand(a *app) *ffcli.Command {
	return group(&ffcli.Command{
		Name:        "state",
		ShortUsage:  "drv-thru state backup FILE",
		ShortHelp:   "back up this builder's state",
		FlagSet:     a.flags("drv-thru state"),
		Subcommands: []*ffcli.Command{newStateBackupCommand(a)},
	})
}

func newStateBackupCommand(a *app) *ffcli.Command {
	return a.asking(&ffcli.Command{
		Name:       "backup",
		ShortUsage: "drv-thru state backup [flags] FILE",
		ShortHelp:  "copy the state of the running builder",
		LongHelp: "Copies tickets, their uses and the history of builds, as they are at one moment, to\n" +
			"FILE, which must not exist. It has the secrets of the tickets: keep it as you keep\n" +
			"those. To put it back, stop the builder, copy it to DATA-DIR/state.db, remove\n" +
			"state.db-wal and state.db-shm there, and start the builder. The keys beside it\n" +
			"(secret.key, signing-secret.key) are not part of it.",
	}, a.flags("drv-thru state backup"), "one FILE", func(ctx context.Context, client *admin.Client, file string, asJSON bool) error {
		n, err := backUp(ctx, client, file)
		if err != nil {
			return err
		}
		if asJSON {
			return term.WriteJSON(a.stdout, struct {
				File  string `json:"file"`
				Bytes int64  `json:"bytes"`
			}{file, n})
		}
		_, err = fmt.Fprintf(a.stdout, "%s, %s\n", file, term.Bytes(n))
		return err
	})
}

// backUp writes the file whole or not at all, and never over another.
func backUp(ctx context.Context, client *admin.Client, file string) (int64, error) {
	if _, err := os.Lstat(file); err == nil {
		return 0, fmt.Errorf("%s exists; a backup replaces nothing", file)
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".backup-*") // CreateTemp makes 0600
	if err != nil {
		return 0, fmt.Errorf("back up: %w", err)
	}
	defer os.Remove(f.Name())
	n, err := client.Backup(ctx, f)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return 0, err
	}
	if err := os.Link(f.Name(), file); err != nil {
		return 0, fmt.Errorf("back up: %w", err)
	}
	return n, nil
}
