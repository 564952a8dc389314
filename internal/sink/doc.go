// Package sink sends the log elsewhere: to a file, a syslog server, a webhook or an OTLP collector. Each sink goes through the
// records at its own pace, from where it stopped, so that one that is down delays nobody and catches up later.
//
// It knows how records look outside, in the names of the Elastic Common Schema (docs/sinks.md), and where a sink stopped. It must
// never hold up the daemon, and never know a key or a token other than those of its own targets.
//
// A record that was handed over is noted durably afterwards. What was under way when a sink failed or the daemon ended may have
// arrived or not: it is sent again, and says so in hallpass.redelivered. So nothing is lost, and nothing comes twice unmarked.
package sink
