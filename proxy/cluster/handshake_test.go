package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	gcnp "github.com/datastax/go-cassandra-native-protocol/frame"
	"github.com/datastax/go-cassandra-native-protocol/message"
	"github.com/datastax/go-cassandra-native-protocol/primitive"

	"github.com/zdmproject/terraform-provider-zdm/cql/frame"
	"github.com/zdmproject/terraform-provider-zdm/internal/secret"
)

const passwordAuthenticator = "org.apache.cassandra.auth.PasswordAuthenticator"

func TestHandshakeEndsAsTheNodeSays(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name          string
		authenticator string
		handshake     Handshake
		max           primitive.ProtocolVersion
		// wantError is a part of the error's text; "" for success.
		wantError string
		// wantCode is the code of the *NodeError, 0 if it is none.
		wantCode       frame.ErrorCode
		versionRefused bool
	}{
		{name: "no login asked", handshake: Handshake{Version: frame.V4}},
		{name: "v3", handshake: Handshake{Version: frame.V3}},
		{name: "user configured but no login asked", handshake: Handshake{Version: frame.V4, Username: "app", Password: secret.New("sesame")}},
		{name: "password", authenticator: passwordAuthenticator, handshake: Handshake{Version: frame.V4, Username: "app", Password: secret.New("sesame")}},
		{name: "unknown class is spoken to like a password one", authenticator: "com.example.Auth", handshake: Handshake{Version: frame.V3, Username: "app", Password: secret.New("sesame")}},
		{name: "DSE in two steps", authenticator: dseAuthenticator, handshake: Handshake{Version: frame.V4, Username: "app", Password: secret.New("sesame")}},
		{name: "wrong password", authenticator: passwordAuthenticator, handshake: Handshake{Version: frame.V4, Username: "app", Password: secret.New("mellon")},
			wantError: "Provided username app", wantCode: frame.ErrBadCredentials},
		{name: "wrong password at DSE", authenticator: dseAuthenticator, handshake: Handshake{Version: frame.V4, Username: "app", Password: secret.New("mellon")},
			wantError: "Provided username app", wantCode: frame.ErrBadCredentials},
		{name: "no user", authenticator: passwordAuthenticator, handshake: Handshake{Version: frame.V4},
			wantError: "no user name is configured"},
		{name: "keyspace is quoted", handshake: Handshake{Version: frame.V4, Keyspace: `My"KS`}},
		{name: "unknown keyspace", handshake: Handshake{Version: frame.V4, Keyspace: "nope"},
			wantError: `use keyspace "nope"`, wantCode: frame.ErrInvalid},
		{name: "version refused", handshake: Handshake{Version: frame.V4}, max: primitive.ProtocolVersion3,
			wantError: "unsupported protocol version", wantCode: frame.ErrProtocol, versionRefused: true},
		{name: "version that is not known", handshake: Handshake{Version: frame.Version(6)}, wantError: "not supported"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			network := newFakeNet(t)
			node := network.add("node", nil, nil)
			node.authenticator, node.username, node.password = test.authenticator, "app", "sesame"
			if test.max != 0 {
				node.max = test.max
			}
			nc, err := network.dial(t.Context(), "node")
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			result, err := test.handshake.Run(t.Context(), nc)
			if test.wantError == "" {
				if err != nil {
					t.Fatal(err)
				}
				if result.Authenticator != test.authenticator {
					t.Errorf("authenticator is %q, want %q", result.Authenticator, test.authenticator)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.wantError) {
				t.Fatalf("error is %v, want one with %q", err, test.wantError)
			}
			if strings.Contains(fmt.Sprintf("%+v %#v", err, test.handshake), "mellon") {
				t.Errorf("the password is in %v or in %#v", err, test.handshake)
			}
			var code frame.ErrorCode
			if node := (*NodeError)(nil); errors.As(err, &node) {
				code = node.Code
				checkErrorBody(t, node, test.handshake.Version)
			}
			if code != test.wantCode {
				t.Errorf("code is 0x%X, want 0x%X", code, test.wantCode)
			}
			if got := VersionRefused(err); got != test.versionRefused {
				t.Errorf("VersionRefused is %t, want %t, for %v", got, test.versionRefused, err)
			}
		})
	}
}

// checkErrorBody decodes a NodeError's body as a client would.
func checkErrorBody(t *testing.T, e *NodeError, v frame.Version) {
	t.Helper()
	raw := &gcnp.RawFrame{
		Header: &gcnp.Header{IsResponse: true, Version: primitive.ProtocolVersion(v), OpCode: primitive.OpCodeError, BodyLength: int32(len(e.Body))},
		Body:   e.Body,
	}
	f, err := gcnp.NewRawCodec().ConvertFromRawFrame(raw)
	if err != nil {
		t.Fatalf("body of %v: %v", e, err)
	}
	if got := f.Body.Message.(message.Error).GetErrorMessage(); got != e.Message {
		t.Errorf("body says %q, want %q", got, e.Message)
	}
}

func TestHandshakeLeavesWhatFollowsInTheConnection(t *testing.T) {
	t.Parallel()
	client, server := net.Pipe()
	defer client.Close()
	codec := gcnp.NewRawCodec()
	var follow bytes.Buffer
	event := gcnp.NewFrame(primitive.ProtocolVersion4, -1, &message.SchemaChangeEvent{
		ChangeType: primitive.SchemaChangeTypeCreated, Target: primitive.SchemaChangeTargetKeyspace, Keyspace: "ks"})
	if err := codec.EncodeFrame(event, &follow); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		defer server.Close()
		if _, err := codec.DecodeFrame(server); err != nil {
			done <- err
			return
		}
		var ready bytes.Buffer
		_ = codec.EncodeFrame(gcnp.NewFrame(primitive.ProtocolVersion4, 0, &message.Ready{}), &ready)
		_, err := server.Write(append(ready.Bytes(), follow.Bytes()...))
		done <- err
	}()
	if _, err := (Handshake{Version: frame.V4}).Run(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, follow.Len())
	if _, err := client.Read(got); err != nil || !bytes.Equal(got, follow.Bytes()) {
		t.Errorf("after the handshake came %x (%v), want %x", got, err, follow.Bytes())
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestHandshakeEndsWithItsContextWhenTheNodeIsSilent(t *testing.T) {
	t.Parallel()
	network := newFakeNet(t)
	network.add("node", nil, nil).mute = true
	nc, err := network.dial(t.Context(), "node")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := (Handshake{Version: frame.V4}).Run(ctx, nc); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v, want the deadline", err)
	}
}

func TestAVersionIsRefusedInTheWordsOfCassandraAndDSE(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"Invalid or unsupported protocol version (5); the lowest supported version is 3 and the greatest is 4":                   true,
		"Invalid or unsupported protocol version: 66; supported versions are (3/v3, 4/v4, 65/dse-v1)":                            true,
		"Beta version of the protocol used (5/v5-beta), but USE_BETA flag is unset. Supported versions: [3/v3, 4/v4, 5/v5-beta]": true,
		"Unexpected message QUERY, expecting STARTUP or OPTIONS":                                                                 false,
	} {
		if got := VersionRefused(&NodeError{Code: frame.ErrProtocol, Message: text}); got != want {
			t.Errorf("%q: refused %v, want %v", text, got, want)
		}
		if VersionRefused(&NodeError{Code: frame.ErrServer, Message: text}) {
			t.Errorf("%q as SERVER_ERROR is taken for a refused version", text)
		}
	}
}

func TestNodeErrorBodyIsBareWhenWarningsPrecedeIt(t *testing.T) {
	t.Parallel()
	client, server := net.Pipe()
	defer client.Close()
	done := make(chan error, 1)
	go func() {
		defer server.Close()
		codec := gcnp.NewRawCodec()
		if _, err := codec.DecodeFrame(server); err != nil {
			done <- err
			return
		}
		answer := gcnp.NewFrame(primitive.ProtocolVersion4, 0, &message.Overloaded{ErrorMessage: "too much"})
		answer.SetWarnings([]string{"careful"})
		var buf bytes.Buffer
		_ = codec.EncodeFrame(answer, &buf)
		_, err := server.Write(buf.Bytes())
		done <- err
	}()
	_, err := (Handshake{Version: frame.V4}).Run(t.Context(), client)
	var node *NodeError
	if !errors.As(err, &node) || node.Message != "too much" {
		t.Fatalf("error is %v, want the node's", err)
	}
	checkErrorBody(t, node, frame.V4)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
