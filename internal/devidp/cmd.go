package devidp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// Command returns the program hallpass-devidp.
func Command() *cobra.Command {
	root := &cobra.Command{
		Use:           "hallpass-devidp",
		Short:         "An OpenID Connect provider for development, on loopback only",
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("unknown command %q; see %s --help", args[0], cmd.Name())
			}
			return cmd.Help()
		},
	}
	root.AddCommand(serveCommand(), signInCommand(), tokenCommand(), freePortsCommand(), dialCommand())
	return root
}

func serveCommand() *cobra.Command {
	var config Config
	var listen, ready string
	var withParent bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve until SIGTERM or SIGINT; print the issuer's URL when ready",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			if withParent {
				var cancel context.CancelFunc
				ctx, cancel = withParentProcess(ctx)
				defer cancel()
			}
			return runServer(ctx, config, listen, ready, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "loopback address and port; port 0 takes a free one")
	cmd.Flags().StringVar(&config.KeyFile, "key", "", "PEM file of the signing keys, made if absent (default: new keys each time)")
	cmd.Flags().StringVar(&ready, "ready-file", "", "file to write the issuer's URL to when ready; removed at the end")
	cmd.Flags().BoolVar(&withParent, "with-parent", false, "end when the parent process does")
	return cmd
}

// runServer serves until the context ends.
func runServer(ctx context.Context, config Config, listen, ready string, out io.Writer) error {
	server, err := New(config)
	if err != nil {
		return err
	}
	if err := server.Listen(listen); err != nil {
		return err
	}
	if ready != "" {
		if err := writeFile(ready, []byte(server.URL()+"\n")); err != nil {
			return errors.Join(fmt.Errorf("write ready file: %w", err), server.Close())
		}
		defer os.Remove(ready)
	}
	fmt.Fprintln(out, server.URL())
	<-ctx.Done()
	return server.Close()
}

// withParentProcess returns a context that ends when the process that started this one has ended.
func withParentProcess(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	parent := os.Getppid()
	go func() {
		defer cancel()
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for os.Getppid() == parent {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, cancel
}

func signInCommand() *cobra.Command {
	var jarFile string
	cmd := &cobra.Command{
		Use:   "sign-in USER URL",
		Short: "Open a sign-in page and click USER's button, as a browser would",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			browser := NewBrowser(nil)
			if jarFile != "" {
				if err := browser.LoadCookies(jarFile); err != nil {
					return err
				}
			}
			if err := browser.SignIn(cmd.Context(), args[0], args[1]); err != nil {
				return fmt.Errorf("sign in as %s: %w", args[0], err)
			}
			if jarFile != "" {
				if err := browser.SaveCookies(jarFile); err != nil {
					return err
				}
			}
			fmt.Fprintln(cmd.OutOrStdout(), "signed in as", args[0])
			return nil
		},
	}
	cmd.Flags().StringVar(&jarFile, "jar", "", "file that keeps cookies between calls (default: forget them)")
	return cmd
}

func tokenCommand() *cobra.Command {
	var issuer, audience string
	cmd := &cobra.Command{
		Use:   "token --issuer URL --audience AUDIENCE WORKLOAD",
		Short: "Print an ID token for a workload, such as ci",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if issuer == "" || audience == "" {
				return errors.New("--issuer and --audience are required")
			}
			token, err := WorkloadToken(cmd.Context(), issuer, args[0], audience)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), token)
			return nil
		},
	}
	cmd.Flags().StringVar(&issuer, "issuer", "", "URL of the provider, as serve prints it")
	cmd.Flags().StringVar(&audience, "audience", "", "whom the token is for")
	return cmd
}

// WorkloadToken asks the provider at the URL for a token of the workload.
func WorkloadToken(ctx context.Context, provider, workload, audience string) (string, error) {
	form := url.Values{"user": {workload}, "audience": {audience}}
	at := strings.TrimSuffix(provider, "/") + WorkloadTokenPath
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, at, strings.NewReader(form.Encode()))
	if err != nil {
		return "", fmt.Errorf("get workload token: %w", err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := NewBrowser(nil).client.Do(request)
	if err != nil {
		return "", fmt.Errorf("get workload token: %w", err)
	}
	defer response.Body.Close()
	var answer struct{ Value, Error string }
	if err := json.NewDecoder(io.LimitReader(response.Body, maxPage)).Decode(&answer); err != nil {
		return "", fmt.Errorf("get workload token from %s: %s, and no JSON: is this a development provider?", at, response.Status)
	}
	if response.StatusCode != http.StatusOK || answer.Value == "" {
		return "", fmt.Errorf("get workload token: %s: %s", response.Status, printable(answer.Error))
	}
	return answer.Value, nil
}
