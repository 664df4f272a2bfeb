// Package notify tells a service manager how a service is doing, by the protocol of
// sd_notify(3). Without a service manager that asks for it, it does nothing.
package notify

import (
	"context"
	"strconv"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Ready tells that the service does its work: at the start, and after [Reloading].
func Ready() { send(daemon.SdNotifyReady) }

// Reloading tells that the configuration is being read again. [Ready] has to
// follow, whatever becomes of it.
func Reloading() {
	state := daemon.SdNotifyReloading
	// Type=notify-reload wants to know when, so as not to take an older reload for this one.
	if now := daemon.SdNotifyMonotonicUsec(); now != "" {
		state += "\n" + now
	}
	send(state)
}

// Stopping tells that the service ends.
func Stopping() { send(daemon.SdNotifyStopping) }

// Status tells in a line what the service is doing.
func Status(text string) { send("STATUS=" + text) }

func send(state string) {
	// Whether it is heard is the service manager's own matter.
	_, _ = daemon.SdNotify(false, state)
}

// Watchdog shows until ctx ends that the service works, where the service manager
// restarts one that does not (WatchdogSec=). Each time it waits for alive, which
// touches what a service that hangs would hang in; what it answers does not count.
func Watchdog(ctx context.Context, alive func()) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil || limit <= 0 {
		return
	}
	tick := time.NewTicker(limit / 3)
	defer tick.Stop()
	for {
		alive()
		send(daemon.SdNotifyWatchdog)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Extend asks for so much more time than the service manager would give by itself
// for what goes on: to start, to reload or to stop.
func Extend(by time.Duration) {
	send("EXTEND_TIMEOUT_USEC=" + strconv.FormatInt(by.Microseconds(), 10))
}
