package devidp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"

	"github.com/spf13/cobra"
)

// The trial stack needs two small programs that not every machine has: one that finds free ports, and one that lets ssh reach
// an address under another name (ProxyCommand). Both stay on loopback, like the provider.

func freePortsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "free-ports N",
		Short: "Print N loopback ports that are free now",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[0])
			if err != nil || n < 1 || n > 100 {
				return fmt.Errorf("%q is not a number from 1 to 100", args[0])
			}
			for i := range n {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					return err
				}
				defer l.Close() // all are held until the last is found, so that they differ
				if i > 0 {
					fmt.Fprint(cmd.OutOrStdout(), " ")
				}
				_, port, err := net.SplitHostPort(l.Addr().String())
				if err != nil {
					return err
				}
				fmt.Fprint(cmd.OutOrStdout(), port)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout())
			return err
		},
	}
}

func dialCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "dial ADDRESS:PORT",
		Short: "Connect standard input and output to a loopback port",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := netip.ParseAddrPort(args[0])
			if err != nil || !to.Addr().IsLoopback() {
				return fmt.Errorf("%q is not a loopback address and port", args[0])
			}
			conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
			if err != nil {
				return err
			}
			defer conn.Close()
			go func() {
				_, _ = io.Copy(conn, cmd.InOrStdin()) // ends with the program at the latest
				_ = conn.CloseWrite()
			}()
			if _, err := io.Copy(cmd.OutOrStdout(), conn); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				return err
			}
			return nil
		},
	}
}
