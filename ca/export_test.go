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

// KeyID, SourceAddressValid, PrincipalValid and IsValidPoint are what tests hold against their oracles.
var (
	KeyID              = keyID
	SourceAddressValid = validSourceAddress
	PrincipalValid     = func(s string) bool { return !notPrincipal(s) }
	IsValidPoint       = validEd25519
)

// AllValid says whether signatures, each over the message at its place and by the key there, verify together.
func AllValid(keys, messages, signatures [][]byte) bool {
	var batch []*verification
	known := map[string]*edwardsKey{}
	for i := range messages {
		if known[string(keys[i])] == nil {
			known[string(keys[i])] = newEdwardsKey(keys[i])
		}
		batch = append(batch, &verification{key: known[string(keys[i])], message: messages[i], signature: signatures[i]})
	}
	return allValid(batch)
}

// PanicInBatch says what comes of a batch in the midst of which something panics.
func PanicInBatch() (valid bool) { return allValid([]*verification{{}}) }
