package devidp

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

const deviceLifetime = 10 * time.Minute

// deviceGrant is a sign-in by the device flow (RFC 8628).
type deviceGrant struct {
	clientID string
	userCode string
	scopes   []string
	expires  time.Time
	denied   bool
	by       session // who approved; empty until then
}

func (s *storage) StoreDeviceAuthorization(ctx context.Context, clientID, deviceCode, userCode string, _ time.Time, scopes []string) error {
	now := momentOf(ctx).now
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.devices, func(_ string, d *deviceGrant) bool { return now.After(d.expires) })
	for _, d := range s.devices {
		if d.userCode == userCode {
			return op.ErrDuplicateUserCode
		}
	}
	known := []string{oidc.ScopeOpenID, oidc.ScopeProfile, oidc.ScopeEmail, scopeGroups, oidc.ScopeOfflineAccess}
	scopes = slices.DeleteFunc(slices.Clone(scopes), func(scope string) bool { return !slices.Contains(known, scope) })
	s.devices[deviceCode] = &deviceGrant{clientID: clientID, userCode: userCode, scopes: scopes, expires: now.Add(deviceLifetime)}
	return nil
}

var errNoDevice = errors.New("this code is unknown, used or expired; start again on the device")

// GetDeviceAuthorizatonState answers a poll of the device. An approval is given out once.
func (s *storage) GetDeviceAuthorizatonState(ctx context.Context, clientID, deviceCode string) (*op.DeviceAuthorizationState, error) {
	m := momentOf(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.devices[deviceCode]
	if !ok || d.clientID != clientID {
		return nil, errNoDevice
	}
	if m.now.After(d.expires) {
		// The library holds the expiry against the machine's clock, not ours; the zero time is past on any.
		return &op.DeviceAuthorizationState{ClientID: clientID}, nil
	}
	state := &op.DeviceAuthorizationState{
		ClientID: clientID,
		Scopes:   slices.Clone(d.scopes),
		Expires:  time.Now().Add(deviceLifetime),
		Denied:   d.denied,
		Done:     d.by.subject != "",
		Subject:  d.by.subject,
		AuthTime: d.by.authTime.Add(m.skew),
	}
	if state.Done || state.Denied {
		delete(s.devices, deviceCode)
	}
	return state, nil
}

// device returns the sign-in with the user code that waits for an answer. The caller must hold the lock.
func (s *storage) device(ctx context.Context, userCode string) (*deviceGrant, error) {
	userCode = plainCode(userCode)
	for _, d := range s.devices {
		if plainCode(d.userCode) != userCode {
			continue
		}
		if d.denied || d.by.subject != "" || momentOf(ctx).now.After(d.expires) {
			return nil, errNoDevice
		}
		return d, nil
	}
	return nil, errNoDevice
}

// plainCode is what counts of a user code: people leave out the dash and type small letters (RFC 8628 6.1).
func plainCode(code string) string {
	return strings.ToUpper(strings.NewReplacer("-", "", " ", "").Replace(code))
}

func (s *storage) pendingDevice(ctx context.Context, userCode string) (deviceGrant, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.device(ctx, userCode)
	if err != nil {
		return deviceGrant{}, err
	}
	return *d, nil
}

func (s *storage) approveDevice(ctx context.Context, userCode string, by session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.device(ctx, userCode)
	if err != nil {
		return err
	}
	d.by = by
	return nil
}

func (s *storage) denyDevice(ctx context.Context, userCode string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.device(ctx, userCode)
	if err != nil {
		return err
	}
	d.denied = true
	return nil
}
