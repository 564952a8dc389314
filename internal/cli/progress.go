package cli

import (
	"fmt"
	"strings"
	"time"
)

// progress shows on a terminal how far something is. Elsewhere it shows nothing.
type progress struct {
	a             *app
	what          string
	start, latest time.Time
	shown         bool
}

// progressEvery is how often it is drawn.
const progressEvery = 100 * time.Millisecond

func (a *app) progress(what string) *progress { return &progress{a: a, what: what, start: time.Now()} }

func (p *progress) show(done, all uint64) {
	now := time.Now()
	if !isTerminal(p.a.err) || all == 0 || now.Sub(p.latest) < progressEvery {
		return
	}
	p.latest, p.shown = now, true
	const width = 20
	full := int(width * done / all)
	rate := uint64(float64(done) / max(now.Sub(p.start).Seconds(), 0.001))
	fmt.Fprintf(p.a.err, "\r\x1b[K[%s%s] %3d%%  %s of %s %s, %s/s", strings.Repeat("#", full), strings.Repeat("-", width-full),
		100*done/all, grouped(done), grouped(all), p.what, grouped(rate))
}

// clear takes it off the screen.
func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.a.err, "\r\x1b[K")
	}
}
