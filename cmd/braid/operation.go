package main

import (
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	adminv1 "github.com/braidmq/braid/gen/braid/admin/v1"
)

func operationCommand() *cobra.Command {
	return parent("operation", "Long running operations",
		operationListCommand(), operationWatchCommand(), operationCancelCommand())
}

// finish ends a command that began an operation: it waits for it, with progress
// on stderr, or prints its id.
func (a *api) finish(cmd *cobra.Command, operation string, noWait bool, done string) error {
	if noWait {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), short(operation))
		return err
	}
	if operation != "" {
		if err := a.watch(cmd, operation); err != nil {
			return err
		}
	}
	cmd.PrintErrln(done)
	return nil
}

// watchRetriesMax bounds how often a watch that breaks is begun anew without
// any news in between.
const watchRetriesMax = 30

// watch prints the progress of an operation until it is done. A stream that
// breaks, because a gateway or a controller goes, is opened again.
func (a *api) watch(cmd *cobra.Command, name string) error {
	ctx := cmd.Context()
	progress := &progress{cmd: cmd}
	for retries := 0; ; retries++ {
		stream, err := a.operations.WatchOperation(ctx, &adminv1.WatchOperationRequest{Name: name})
		if err == nil {
			for stream.Receive() {
				retries = 0
				if op := stream.Msg().GetOperation(); progress.show(op) {
					_ = stream.Close()
					return outcome(op)
				}
			}
			err = stream.Err()
			_ = stream.Close()
		}
		final := err != nil && connect.IsWireError(err) && connect.CodeOf(err) != connect.CodeUnavailable
		if ctx.Err() != nil || final || retries >= watchRetriesMax {
			return a.explain(ctx, err)
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// outcome returns the error of an operation that is done.
func outcome(op *adminv1.Operation) error {
	if op.GetErrorCode() == 0 {
		return nil
	}
	return fmt.Errorf("%s of %s failed: %s", op.GetKind(), short(op.GetTarget()), op.GetErrorMessage())
}

// A progress prints each step when it changes.
type progress struct {
	cmd  *cobra.Command
	last map[string]string
}

// show prints what is new and reports whether the operation is done.
func (p *progress) show(op *adminv1.Operation) bool {
	if p.last == nil {
		p.last = make(map[string]string)
	}
	for _, s := range op.GetSteps() {
		text := stepText(s)
		if s.GetDone() > 0 && p.last[s.GetName()] != text {
			p.cmd.PrintErrf("%s: %s\n", op.GetKind(), text)
		}
		p.last[s.GetName()] = text
	}
	return op.GetDone()
}

func stepText(s *adminv1.Operation_Step) string {
	text := s.GetName()
	if s.GetTotal() > 0 {
		text += fmt.Sprintf(" %d/%d", s.GetDone(), s.GetTotal())
	}
	if s.GetDetail() != "" {
		text += " (" + s.GetDetail() + ")"
	}
	return text
}

func operationListCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List operations, the newest first", Args: cobra.NoArgs}
	outputFlag(cmd)
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, _ []string) error {
		all := &adminv1.ListOperationsResponse{}
		err := pages(func(token string) (string, error) {
			resp, err := call(cmd.Context(), a, a.operations.ListOperations, &adminv1.ListOperationsRequest{PageToken: token})
			all.Operations = append(all.Operations, resp.GetOperations()...)
			return resp.GetNextPageToken(), err
		})
		if err != nil {
			return err
		}
		return printMessage(cmd, all, func(r *rows) { operationRows(r, all.GetOperations()) })
	})
	return cmd
}

func operationRows(r *rows, operations []*adminv1.Operation) {
	r.row("ID", "KIND", "TARGET", "STATE", "STEP", "STARTED", "TOOK")
	for _, o := range operations {
		took := ""
		if o.GetEndTime() != nil && o.GetStartTime() != nil {
			took = o.GetEndTime().AsTime().Sub(o.GetStartTime().AsTime()).Round(time.Millisecond).String()
		}
		started := ""
		if o.GetStartTime() != nil {
			started = o.GetStartTime().AsTime().Format(time.RFC3339)
		}
		r.row(short(o.GetName()), o.GetKind(), short(o.GetTarget()), operationState(o), currentStep(o), started, took)
	}
}

func operationState(o *adminv1.Operation) string {
	switch {
	case !o.GetDone():
		return "running"
	case o.GetErrorCode() == int32(connect.CodeCanceled):
		return "cancelled"
	case o.GetErrorCode() != 0:
		return "failed: " + o.GetErrorMessage()
	default:
		return "done"
	}
}

// currentStep is the first step that is not complete, else the last.
func currentStep(o *adminv1.Operation) string {
	text := ""
	for _, s := range o.GetSteps() {
		text = stepText(s)
		if s.GetDone() < s.GetTotal() {
			break
		}
	}
	return text
}

func operationWatchCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "watch ID", Short: "Show the progress of an operation until it is done", Args: cobra.ExactArgs(1)}
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		if err := a.watch(cmd, operationName(args[0])); err != nil {
			return err
		}
		cmd.PrintErrln("done")
		return nil
	})
	return cmd
}

func operationCancelCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "cancel ID", Short: "Stop an operation at its next safe point", Args: cobra.ExactArgs(1)}
	cmd.RunE = withAPI(cmd, func(cmd *cobra.Command, a *api, args []string) error {
		resp, err := call(cmd.Context(), a, a.operations.CancelOperation, &adminv1.CancelOperationRequest{Name: operationName(args[0])})
		if err != nil {
			return err
		}
		op := resp.GetOperation()
		cmd.PrintErrln(strings.TrimSpace(op.GetKind()+" of "+short(op.GetTarget())) + ": " + operationState(op))
		return nil
	})
	return cmd
}
