//go:build linux

package bench_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/hallpass-ssh/hallpass/internal/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// The echo server is this program again, in a process of its own like the daemon. The variable holds the folder of the daemon
// whose TLS certificate it shows, and the size of its answers.
const (
	echoVariable = "HALLPASS_BENCH_ECHO"
	echoMethod   = "/bench.Echo/Echo"
)

func startEcho(b *testing.B, dir string, answer int) *process {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", echoVariable, answer, dir))
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	must(b, err)
	stdin, err := cmd.StdinPipe() // its end is the end of the server
	must(b, err)
	must(b, cmd.Start())
	p := &process{cmd: cmd}
	b.Cleanup(func() { _ = stdin.Close(); p.stop() })
	port, err := bufio.NewReader(stdout).ReadString('\n')
	must(b, err)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls", "cert.pem"), filepath.Join(dir, "tls", "key.pem"))
	must(b, err)
	pin := sha256.Sum256(pair.Leaf.RawSubjectPublicKeyInfo)
	p.connect(b, client.Address{Host: "localhost", Port: strings.TrimSpace(port), Pin: pin[:]})
	return p
}

// serveEcho answers until in ends.
func serveEcho(in io.Reader, out io.Writer) error {
	size, dir, _ := strings.Cut(os.Getenv(echoVariable), " ")
	n, err := strconv.Atoi(size)
	if err != nil {
		return err
	}
	answer := make(frame, n)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls", "cert.pem"), filepath.Join(dir, "tls", "key.pem"))
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}),
		grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13})))
	server.RegisterService(&grpc.ServiceDesc{ServiceName: "bench.Echo", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
		MethodName: "Echo",
		Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var request frame
			return &answer, decode(&request)
		},
	}}}, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		server.Stop()
	}()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	fmt.Fprintln(out, port)
	return server.Serve(listener)
}
