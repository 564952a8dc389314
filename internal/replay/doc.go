// Package replay reads recorded decisions, from a copy of a log or from a daemon, and asks a proposed policy about them.
//
// It knows how logs are read, in which order and how much at a time. It must never know what a policy says, which is for package
// policy, nor how results are shown.
package replay
