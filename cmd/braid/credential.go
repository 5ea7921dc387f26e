package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
)

func credentialCommand() *cobra.Command {
	return parent("credential", "What users prove themselves with, on both doors",
		credentialCreateCommand(), credentialListCommand(), credentialDeleteCommand())
}

// passwordBytesMax bounds what is read of standard input for a password.
const passwordBytesMax = 4096

const mechanismHelp = "SCRAM-SHA-256 or SCRAM-SHA-512; both by default"

func credentialCreateCommand() *cobra.Command {
	req := &adminv1.CreateCredentialRequest{}
	var passwordFile string
	cmd := &cobra.Command{
		Use: "create USER", Short: "Give a user a password, which is shown once", Args: cobra.ExactArgs(1),
		Long: `Give a user a password. Without --password-file one is made, and shown once: as
password of SASL/SCRAM, SASL/PLAIN and HTTP Basic, and as bearer token of the Connect API.`,
		Example: "  braid credential create alice\n  braid credential create alice --replace --password-file ./password",
	}
	outputFlag(cmd)
	logical := logicalFlag(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&req.Mechanisms, "mechanism", nil, mechanismHelp)
	f.StringVar(&passwordFile, "password-file", "", "file with the password; - is standard input")
	f.Int32Var(&req.Iterations, "iterations", 4096, "rounds of hashing, 4096 to 16384")
	f.BoolVar(&req.Replace, "replace", false, "replace what the user has; who is in stays in")
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		req.Parent, req.User = logicalName(*logical), args[0]
		var err error
		if req.Password, err = readPassword(cmd, passwordFile); err != nil {
			return err
		}
		resp, err := call(cmd.Context(), a, a.creds.CreateCredential, req)
		if err != nil {
			return err
		}
		if req.GetPassword() != "" {
			resp.BearerToken = "" // it holds the password, which is known, and need not be shown
		}
		return printMessage(cmd, resp, func(r *rows) {
			r.row("User:", req.GetUser())
			for _, c := range resp.GetCredentials() {
				r.row("Mechanism:", fmt.Sprintf("%s, %d iterations", c.GetMechanism(), c.GetIterations()))
			}
			if resp.GetSecret() != "" {
				r.row("Password:", resp.GetSecret())
				r.row("Bearer token:", resp.GetBearerToken())
			}
		})
	})
	return cmd
}

// readPassword reads the password that is to be set: never from a flag, which others
// could see in the list of processes.
func readPassword(cmd *cobra.Command, file string) (string, error) {
	var b []byte
	var err error
	switch file {
	case "":
		return "", nil
	case "-":
		b, err = io.ReadAll(io.LimitReader(cmd.InOrStdin(), passwordBytesMax))
	default:
		b, err = os.ReadFile(file) //nolint:gosec // the user names the file, and reads it with own rights
	}
	if err != nil {
		return "", fmt.Errorf("--password-file: %w", err)
	}
	password := strings.TrimRight(string(b), "\r\n")
	if password == "" {
		return "", usagef("--password-file %s is empty", file)
	}
	return password, nil
}

func credentialListCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List users and their mechanisms", Args: cobra.NoArgs}
	outputFlag(cmd)
	logical := logicalFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, _ []string) error {
		all := &adminv1.ListCredentialsResponse{}
		err := pages(func(token string) (string, error) {
			resp, err := call(cmd.Context(), a, a.creds.ListCredentials, &adminv1.ListCredentialsRequest{Parent: logicalName(*logical), PageToken: token})
			all.Credentials = append(all.Credentials, resp.GetCredentials()...)
			return resp.GetNextPageToken(), err
		})
		if err != nil {
			return err
		}
		return printMessage(cmd, all, func(r *rows) { credentialRows(r, all.GetCredentials()) })
	})
	return cmd
}

func credentialRows(r *rows, all []*adminv1.Credential) {
	r.row("USER", "MECHANISM", "ITERATIONS", "CREATED")
	for _, c := range all {
		r.row(c.GetUser(), c.GetMechanism(), c.GetIterations(), c.GetCreateTime().AsTime().Format("2006-01-02T15:04:05Z"))
	}
}

func credentialDeleteCommand() *cobra.Command {
	req := &adminv1.RevokeCredentialRequest{}
	cmd := &cobra.Command{
		Use: "delete USER", Short: "Take a user's credentials away; its streams and connections end", Args: cobra.ExactArgs(1),
		Aliases: []string{"revoke"},
	}
	outputFlag(cmd)
	logical := logicalFlag(cmd)
	cmd.Flags().StringSliceVar(&req.Mechanisms, "mechanism", nil, mechanismHelp)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		req.Parent, req.User = logicalName(*logical), args[0]
		resp, err := call(cmd.Context(), a, a.creds.RevokeCredential, req)
		if err != nil {
			return err
		}
		return printMessage(cmd, resp, func(r *rows) { credentialRows(r, resp.GetCredentials()) })
	})
	return cmd
}
