package login

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/oauth2"

	"github.com/hallpass-ssh/hallpass/internal/issuerhttp"
)

const (
	maxDeviceTime   = 15 * time.Minute // for the person to act, whatever the issuer says
	defaultInterval = 5                // seconds (RFC 8628 3.2)
	maxInterval     = 60               // seconds
)

// Device signs a person in with the device flow: they open a page on any machine and enter the code that is printed to out. qr, if
// not nil, draws the page's address for a phone. The ID token has no nonce.
func Device(ctx context.Context, p Provider, out io.Writer, qr func(url string)) (Tokens, error) {
	rp, err := p.discover(ctx)
	if err != nil {
		return Tokens{}, err
	}
	defer rp.close()
	if rp.Endpoint.DeviceAuthURL == "" {
		return Tokens{}, fmt.Errorf("issuer %s has no device flow: sign in on a machine with a browser", p.Issuer)
	}
	device, err := rp.DeviceAuth(rp.with(ctx))
	if err != nil {
		return Tokens{}, rp.explain("begin the device flow", err)
	}
	if err := rp.checkDevice(device); err != nil {
		return Tokens{}, err
	}
	fmt.Fprintf(out, "To sign in, open\n\n  %s\n\non any device and enter the code  %s\n\n", device.VerificationURI, device.UserCode)
	if device.VerificationURIComplete != "" {
		fmt.Fprintf(out, "or open the address that has the code in it:\n\n  %s\n\n", device.VerificationURIComplete)
	}
	fmt.Fprintf(out, "Enter it only if you started this sign-in yourself, and never a code that somebody sent you.\n")
	if qr != nil && device.VerificationURIComplete != "" {
		qr(device.VerificationURIComplete)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, maxDeviceTime, fmt.Errorf("nobody signed in within %s", maxDeviceTime))
	defer cancel()
	answer, err := rp.DeviceAccessToken(rp.with(ctx), device)
	switch {
	case ctx.Err() != nil:
		return Tokens{}, fmt.Errorf("sign in: %w", context.Cause(ctx))
	case errors.Is(err, context.DeadlineExceeded): // the device code's own
		return Tokens{}, errors.New("sign in: the code expired before anybody entered it")
	case err != nil:
		return Tokens{}, rp.explain("sign in", err)
	}
	tokens, _, err := rp.tokens(ctx, answer, "")
	return tokens, err
}

// checkDevice makes the answer fit to be shown and acted on.
func (rp *relyingParty) checkDevice(d *oauth2.DeviceAuthResponse) error {
	for _, address := range []string{d.VerificationURI, d.VerificationURIComplete} {
		if address == "" && d.VerificationURI != "" {
			continue // the complete one is optional
		}
		if err := rp.http.CheckEndpoint(address); err != nil || issuerhttp.Clean(address, 1000) != address {
			return fmt.Errorf("the address to sign in at that issuer %s sent cannot be used: %.200q", rp.issuer, address)
		}
	}
	d.UserCode = issuerhttp.Clean(d.UserCode, 40)
	if d.UserCode == "" || d.DeviceCode == "" {
		return fmt.Errorf("issuer %s sent no code to sign in with", rp.issuer)
	}
	if d.Interval < 1 || d.Interval > maxInterval {
		d.Interval = defaultInterval
	}
	return nil
}
