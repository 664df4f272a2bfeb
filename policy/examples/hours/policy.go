// Allows builds at certain hours of certain days. Its settings:
//
//	{"zone": "Europe/Berlin", "from": "20:00", "to": "07:00", "days": ["mon", "tue", "wed", "thu", "fri"]}
//
// The hours may pass midnight; the day is then the one on which they begin.
// Without days it is every day. A build may run past the end: only its beginning
// is asked about.
//
// A policy has no files, so the zones that it knows are part of it. Copy those
// that you need from /usr/share/zoneinfo to zones.
package main

import (
	"embed"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

//go:embed zones
var zones embed.FS

type request struct {
	Event    string
	Now      int64
	Settings struct {
		Zone, From, To string
		Days           []string
	}
}

type decision struct {
	ABI      string `json:"abi"`
	Decision string `json:"decision"`
	Reason   string `json:"reason,omitempty"`
}

func deny(format string, args ...any) decision {
	return decision{Decision: "deny", Reason: fmt.Sprintf(format, args...)}
}

func decide(r request) decision {
	s := r.Settings
	zone, err := location(s.Zone)
	if err != nil {
		return deny("the policy's zone %q is not known", s.Zone)
	}
	from, err1 := minutes(s.From)
	to, err2 := minutes(s.To)
	if err1 != nil || err2 != nil {
		return deny("the policy's hours are not two times such as 20:00")
	}
	for _, d := range s.Days {
		if !slices.Contains(weekdays, d) {
			return deny("the policy's day %q is none of %s", d, strings.Join(weekdays, ", "))
		}
	}
	if r.Event != "build" {
		return decision{Decision: "allow"}
	}
	now := time.Unix(r.Now, 0).In(zone)
	minute, day := 60*now.Hour()+now.Minute(), int(now.Weekday())
	open := from <= minute && minute < to
	if from >= to {
		open = minute >= from || minute < to
		if minute < to {
			day = (day + 6) % 7 // it began yesterday
		}
	}
	if !open || len(s.Days) > 0 && !slices.Contains(s.Days, weekdays[day]) {
		days := ""
		if len(s.Days) > 0 {
			days = " on " + strings.Join(s.Days, ", ")
		}
		return deny("builds begin from %s to %s%s in %s, where it is %s", s.From, s.To, days, s.Zone, now.Format("Mon 15:04"))
	}
	return decision{Decision: "allow"}
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// location does what time.LoadLocation would do with files.
func location(name string) (*time.Location, error) {
	data, err := zones.ReadFile("zones/" + name)
	if err != nil {
		return nil, err
	}
	return time.LoadLocationFromTZData(name, data)
}

func minutes(text string) (int, error) {
	t, err := time.Parse("15:04", text)
	return 60*t.Hour() + t.Minute(), err
}

func main() {
	var r request
	if err := json.NewDecoder(os.Stdin).Decode(&r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	d := decide(r)
	d.ABI = "ticket-policy/1"
	if err := json.NewEncoder(os.Stdout).Encode(d); err != nil {
		os.Exit(1)
	}
}
