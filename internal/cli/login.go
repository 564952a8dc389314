package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hallpass-ssh/hallpass/ca"
	"github.com/hallpass-ssh/hallpass/internal/agentkey"
	"github.com/hallpass-ssh/hallpass/internal/client"
	"github.com/hallpass-ssh/hallpass/internal/login"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"github.com/mdp/qrterminal/v3"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
)

// loginFlags are what the user may choose about a sign-in.
type loginFlags struct {
	device, noBrowser, fresh bool
	issuer, key, tokenFile   string
}

// interactive tells whether the user asked for a way in which people sign in.
func (f loginFlags) interactive() bool { return f.device || f.noBrowser || f.fresh || f.issuer != "" }

func (a *app) loginCommand() *cobra.Command {
	var f loginFlags
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Sign in, once a day",
		Long: `Sign in at the identity provider that the CA names, and make the key that certificates will be for.

Without a browser (on a machine reached by SSH, say) the device flow is used: you enter a code on any other device. The key is
fresh, lives in your ssh-agent for 12 hours and never rests on a disk; with no agent it is a private file on the runtime tmpfs.

A CI job or a service does not sign in: it has an ID token of its platform, for the audience that the CA gives to jobs. Put it
into a file and name that with --token-file. Such a token gets one certificate, and is worth nothing afterwards.`,
		Example: "  hallpass login --server ca.example.com:7443\n  hallpass login --key ~/.ssh/id_ed25519_sk.pub\n" +
			"  hallpass login --token-file \"$RUNNER_TEMP/id-token\"",
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.device && f.noBrowser {
				return usageError(cmd, errors.New("--device needs no browser on this machine: leave out --no-browser"))
			}
			if f.tokenFile != "" && f.interactive() {
				return usageError(cmd, errors.New("--token-file is for jobs: leave out what is for people"))
			}
			return a.login(cmd.Context(), f)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.device, "device", false, "sign in with a code entered on another device")
	flags.BoolVar(&f.noBrowser, "no-browser", false, "print the address and open nothing")
	flags.BoolVar(&f.fresh, "fresh", false, "have the identity provider ask anew, even if it knows you")
	flags.StringVar(&f.issuer, "issuer", "", "name of the identity provider, if the CA knows several (HALLPASS_ISSUER)")
	flags.StringVar(&f.key, "key", "", "public key file of your own key, in your agent or beside it (HALLPASS_KEY)")
	flags.StringVar(&f.tokenFile, "token-file", "", "file with the ID token of a CI job or service (HALLPASS_TOKEN_FILE)")
	return cmd
}

// login does all that can fail before it replaces the sign-in that is there.
func (a *app) login(ctx context.Context, f loginFlags) error {
	s, err := a.settings()
	if err != nil {
		return err
	}
	address, err := s.address()
	if err != nil {
		return err
	}
	if f.issuer != "" {
		s.Issuer = f.issuer
	}
	if f.key != "" {
		s.Key = f.key
	}
	if f.tokenFile == "" && !f.interactive() {
		f.tokenFile = s.TokenFile
	}
	unlock, err := lockSignIn(ctx)
	if err != nil {
		return err // before the user has signed in for nothing
	}
	unlock() // people take their time
	key, err := newKey(ctx, s.Key)
	if err != nil {
		return err
	}
	conn, err := client.Dial(ctx, address)
	if err != nil {
		return err
	}
	discovered, err := conn.Discover(ctx)
	err = errors.Join(err, conn.Close())
	if err != nil {
		return err
	}
	cas, err := client.CAKeys(discovered)
	if err != nil {
		return err
	}
	if err := checkLog(address, discovered.GetLogPublicKey(), s.LogKey); err != nil {
		return err
	}
	signedIn, err := a.authenticate(ctx, discovered.GetIssuers(), s.Issuer, key.Public, f)
	if err != nil {
		return err
	}
	signedIn.Server = address.String()
	if unlock, err = lockSignIn(ctx); err != nil {
		return err
	}
	defer unlock()
	if err := a.keep(ctx, signedIn, key, cas); err != nil {
		return err
	}
	if err := saveLogKey(address, discovered.GetLogPublicKey()); err != nil {
		return err
	}
	if a.server != "" {
		if err := a.saveServer(a.server); err != nil {
			return err
		}
	}
	if signedIn.TokenFile == "" {
		a.announce(ctx)
		a.refreshSSHConfig(ctx)
	}
	return a.status(ctx)
}

// newKey is the user's own key, or a fresh one. It can be kept, as far as that can be known before the sign-in.
func newKey(ctx context.Context, own string) (*agentkey.Candidate, error) {
	c, err := openCerts()
	if err != nil {
		return nil, err
	}
	if own == "" {
		key, err := agentkey.New()
		if err != nil {
			return nil, err
		}
		return key, c.keys().Usable(ctx, key)
	}
	if home, err := os.UserHomeDir(); err == nil && strings.HasPrefix(own, "~/") {
		own = home + own[1:] // as written in the settings, where no shell expands it
	}
	key, err := agentkey.Own(own)
	if err != nil {
		return nil, err
	}
	if err := c.keys().Usable(ctx, key); err != nil {
		return nil, fmt.Errorf("key %s: %w", own, err)
	}
	return key, nil
}

// chooseIssuer finds the issuer by its name, or takes the first.
func chooseIssuer(issuers []*pb.Issuer, name string) (login.Provider, error) {
	var names []string
	for _, issuer := range issuers {
		if name == "" || issuer.GetName() == name {
			return login.Provider{
				Issuer:   issuer.GetUrl(),
				ClientID: issuer.GetClientId(),
				Scopes:   issuer.GetScopes(),
				// Of an http issuer the provider accepts loopback addresses only: a trial on this machine.
				AllowInsecure: strings.HasPrefix(issuer.GetUrl(), "http:"),
			}, nil
		}
		names = append(names, plain(issuer.GetName()))
	}
	if len(names) == 0 {
		return login.Provider{}, errors.New("the CA names no issuer where people sign in")
	}
	return login.Provider{}, &failure{
		exit: exitUsage,
		err:  fmt.Errorf("the CA knows no issuer %q", name),
		hint: "hallpass login --issuer " + strings.Join(names, "|"),
	}
}

// authenticate takes the token of a job, or signs the user in. In a browser the ID token is bound to the key; the device flow has
// no nonce for that.
func (a *app) authenticate(ctx context.Context, issuers []*pb.Issuer, name string, key ssh.PublicKey, f loginFlags) (login.Session, error) {
	s := login.Session{TokenFile: f.tokenFile, PublicKey: key.Marshal(), KeyExpires: time.Now().Add(sessionLifetime)}
	var (
		tokens login.Tokens
		err    error
	)
	if f.tokenFile != "" {
		s.Issuer.Issuer, tokens, err = login.ReadToken(f.tokenFile)
	} else if s.Issuer, err = chooseIssuer(issuers, name); err == nil {
		tokens, err = a.signIn(ctx, &s, key, f)
	}
	s.Subject, s.Email, s.Expiry, s.IDToken, s.RefreshToken = tokens.Subject, tokens.Email, tokens.Expiry, tokens.IDToken, tokens.RefreshToken
	return s, err
}

// signIn has a person sign in, in a browser here or anywhere else.
func (a *app) signIn(ctx context.Context, s *login.Session, key ssh.PublicKey, f loginFlags) (login.Tokens, error) {
	if f.device || !f.noBrowser && !login.HasBrowser() {
		return login.Device(ctx, s.Issuer, a.err, a.qr())
	}
	open := login.OpenBrowser
	if f.noBrowser {
		open = func(string) error { return nil }
	}
	s.TokenNonce = make([]byte, 32)
	rand.Read(s.TokenNonce)
	nonce := ca.TokenNonce(s.TokenNonce, key.Marshal())
	return login.Browser(ctx, s.Issuer, nonce, open, a.err, login.Options{FreshLogin: f.fresh})
}

// qr draws an address for a phone, if there is a terminal to draw on, and it is wide enough.
func (a *app) qr() func(string) {
	if !isTerminal(a.err) {
		return nil
	}
	return func(address string) {
		var b bytes.Buffer
		qrterminal.GenerateHalfBlock(address, qrterminal.L, &b)
		firstLine, _, _ := strings.Cut(b.String(), "\n")
		if width := terminalWidth(a.err); width == 0 || width >= utf8.RuneCountInString(firstLine) {
			_, _ = b.WriteTo(a.err) // a picture that cannot be drawn: the address is there as text
		}
	}
}

// keep puts the sign-in, its key and the keys of the CA in place of those before.
func (a *app) keep(ctx context.Context, s login.Session, key *agentkey.Candidate, cas []client.CAKey) error {
	if err := a.forgetSession(ctx); err != nil {
		return err
	}
	c, err := openCerts()
	if err != nil {
		return err
	}
	note, err := c.keys().Install(ctx, key, sessionLifetime)
	if err != nil {
		return err
	}
	if note != "" {
		a.note("note: %s", note)
	}
	store, err := a.openStore()
	if err != nil {
		return err
	}
	if err := saveCAKeys(cas); err != nil {
		return err
	}
	return store.Save(ctx, s)
}

// announce makes the first call of a sign-in while its token still has the nonce: the CA records whose key this is, and counts
// refreshed tokens as bound to it. Whoever is refused reads it now, not at the first login to a server.
func (a *app) announce(ctx context.Context) {
	conn, who, err := a.dial(ctx)
	if err == nil {
		defer conn.Close()
		_, err = conn.ListEnvironments(ctx, who)
	}
	if err != nil {
		a.note("note: the CA does not take this sign-in: %v", err)
	}
}

// refreshSSHConfig brings the hosts in our part of the ssh configuration up to date, if setup was run.
func (a *app) refreshSSHConfig(ctx context.Context) {
	s, err := openSSHConfig("")
	if err != nil || !s.installed() {
		return
	}
	plan, err := a.planSetup(ctx, s, false)
	for _, c := range plan {
		if c.file == s.own && c.before != c.after {
			err = errors.Join(err, c.apply())
		}
	}
	if err != nil {
		a.note("note: the hosts in your ssh configuration are those of before: %v", err)
	}
}
