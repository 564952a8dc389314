package client

import (
	"context"
	"fmt"

	"github.com/hallpass-ssh/hallpass/ca"
	pb "github.com/hallpass-ssh/hallpass/proto/hallpass/v1"
	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// SignIn is a caller: an ID token and the key that it is bound to.
type SignIn struct {
	// Token is the compact ID token. It leaves this process as metadata of a verified connection and in no other way.
	Token string
	// TokenNonce are the 32 random bytes behind the nonce of the token; nil for tokens without a nonce.
	TokenNonce []byte
	// Key is the key of the sign-in, and the one that is certified.
	Key ssh.PublicKey
	// Sign makes an SSHSIG blob (PROTOCOL.sshsig, hash sha512) over message with the private half of Key.
	Sign func(ctx context.Context, namespace string, message []byte) ([]byte, error)
	// CAKeys are the user CA keys that were pinned at login.
	CAKeys []ssh.PublicKey
	// Log is the log of the CA, as it was pinned at login.
	Log Log
}

// authorize puts the token on a call.
func authorize(ctx context.Context, who SignIn) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+who.Token)
}

// prove puts the token on a call, and the proof that the caller holds its key, for this method and this server only.
func (c *Client) prove(ctx context.Context, who SignIn, method string) (context.Context, error) {
	possession, err := proto.Marshal(&pb.Possession{
		PublicKey:  who.Key.Marshal(),
		Method:     method,
		ClientTime: timestamppb.New(c.now()),
		ServerName: c.ServerName(),
		TokenNonce: who.TokenNonce,
	})
	if err != nil {
		return nil, fmt.Errorf("encode proof of possession: %w", err)
	}
	sshsig, err := who.Sign(ctx, ca.CallNamespace, possession)
	if err != nil {
		return nil, err
	}
	signed, err := proto.Marshal(&pb.SignedPossession{Possession: possession, Sshsig: sshsig})
	if err != nil {
		return nil, fmt.Errorf("encode proof of possession: %w", err)
	}
	return metadata.AppendToOutgoingContext(authorize(ctx, who), "hallpass-possession-bin", string(signed)), nil
}
