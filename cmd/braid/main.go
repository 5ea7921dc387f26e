// Command braid runs the roles of braid and administers it: see `braid help`.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	code := run(ctx, world{args: os.Args[1:], stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, env: os.LookupEnv})
	stop()
	os.Exit(code)
}

// A world is what the command sees of its surroundings, so that tests can give it another.
type world struct {
	args           []string
	stdin          io.Reader
	stdout, stderr io.Writer
	env            func(string) (string, bool)
}

// A usageError is a wrong use of the command line: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run runs one command line and returns its exit code.
func run(ctx context.Context, w world) int {
	root, ran := newRoot(w)
	root.SetArgs(w.args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	_, _ = fmt.Fprintf(w.stderr, "error: %v\n", err)
	var usage usageError
	if errors.As(err, &usage) || !*ran {
		_, _ = fmt.Fprintf(w.stderr, "run %q for its usage\n", cmd.CommandPath()+" --help")
		return exitUsage
	}
	return exitFailed
}

// newRoot makes the whole command tree. The flag that it returns is set when a
// command line was understood and its command began.
func newRoot(w world) (*cobra.Command, *bool) {
	ran := false
	root := &cobra.Command{
		Use:   "braid",
		Short: "Many Apache Kafka clusters as one, for Connect/gRPC clients and unmodified Kafka SDKs",
		Long: `braid makes many Apache Kafka clusters look like one.

Every flag is also a key of the YAML file that --config names, and an environment
variable: --kafka-listen is kafka-listen: and BRAID_KAFKA_LISTEN. A flag goes before
the variable, the variable before the file.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       build(),
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return applySettings(cmd, w.env)
		},
	}
	root.SetIn(w.stdin)
	root.SetOut(w.stdout)
	root.SetErr(w.stderr)
	root.PersistentFlags().String("config", "", "YAML file with settings")
	root.AddGroup(
		&cobra.Group{ID: groupRoles, Title: "Run:"},
		&cobra.Group{ID: groupAdmin, Title: "Administer:"},
		&cobra.Group{ID: groupClient, Title: "Use:"})
	root.AddCommand(devCommand(), gatewayCommand(), controllerCommand(), nameserverCommand(),
		statusCommand(), clusterCommand(), topicCommand(), groupCommand(), aclCommand(), quotaCommand(), credentialCommand(), tenantCommand(), operationCommand(), recoverCommand(),
		produceCommand(), consumeCommand())
	walk(root, func(cmd *cobra.Command) {
		begin := cmd.RunE
		if begin == nil {
			return
		}
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			ran = true
			return begin(cmd, args)
		}
	})
	return root, &ran
}

const (
	groupRoles  = "roles"
	groupAdmin  = "admin"
	groupClient = "client"
)

// parent makes an administration command that only holds others.
func parent(use, short string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, GroupID: groupAdmin, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(children...)
	return cmd
}

// build names the version of this binary.
func build() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	revision, modified := "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				modified = "-modified"
			}
		}
	}
	if revision == "" {
		return info.Main.Version
	}
	return revision[:min(12, len(revision))] + modified
}
