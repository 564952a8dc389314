package ca

// Lint runs the lints over bytes as if they were to be signed for a with this serial.
func (c *CA) Lint(a *Attempt, serial uint64, toBeSigned []byte) error {
	return lint(toBeSigned, c.expect(a, serial))
}

// LintNames returns the names of all lints.
func LintNames() []string {
	names := make([]string, len(lints))
	for i, l := range lints {
		names[i] = l.name
	}
	return names
}

// KeyID, SourceAddressValid, PrincipalValid and IsSquare are what tests hold against their oracles.
var (
	KeyID              = keyID
	SourceAddressValid = validSourceAddress
	PrincipalValid     = func(s string) bool { return !notPrincipal(s) }
	IsSquare           = isSquare
)
