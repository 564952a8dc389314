// Package ca is the core of Hallpass: it turns one request of one verified identity into one SSH user certificate, or into
// one recorded refusal.
//
// It knows identities, requests, decisions, grants, limits, Authorities, the layout of a certificate, and the order of
// issuance, which is the security argument and stands in one function, CA.Issue:
//
//	authenticate -> decide -> limit -> record -> sign
//
// It must never know how identities are proved (idtoken), how rules are written (policy), how records are encoded (audit) or
// stored (store), nor how requests travel (server). Those meet in the words of this package and plug into the fields of CA.
package ca
