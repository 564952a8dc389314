// Package tokens steals ID tokens of every sort from people and jobs who really signed in, and shows that they open nothing to
// the thief: neither a certificate, nor a dry run, nor the log.
package tokens
