// Command tagstore-refresh is a Lambda function: it takes the events by which
// the stores in AWS tell of changes, and has every healthy replica of the
// configuration service read anew what has changed. All settings come from the
// environment; -help lists them.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/aws/aws-lambda-go/lambda"

	"github.com/tagstore/tagstore/refresh-lambda/internal/app"
)

// version is set when a release is linked.
var version = "dev"

func main() { os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr)) }

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // could not start
	exitUsage  = 2 // started wrongly
)

func run(args, environ []string, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		switch args[0] {
		case "-help", "--help", "-h":
			fmt.Fprintf(stdout, "usage: tagstore-refresh [-help | -version]\n\nIt is a Lambda function, and runs where AWS_LAMBDA_RUNTIME_API says. Settings come from the environment:\n\n%s", app.Usage())
			return exitOK
		case "-version", "--version":
			fmt.Fprintln(stdout, "tagstore-refresh", version)
			return exitOK
		}
		fmt.Fprintf(stderr, "tagstore-refresh: unexpected argument %q (-help lists the settings)\n", args[0])
		return exitUsage
	}
	ctx := context.Background()
	a, err := app.New(ctx, environ, stdout)
	if err != nil {
		fmt.Fprintf(stderr, "tagstore-refresh: %v\n", err)
		reportInit(ctx, os.Getenv("AWS_LAMBDA_RUNTIME_API"), err)
		return exitFailed
	}
	if os.Getenv("AWS_LAMBDA_RUNTIME_API") == "" {
		fmt.Fprintln(stderr, "tagstore-refresh: AWS_LAMBDA_RUNTIME_API is not set: this is a Lambda function, which Lambda starts")
		return exitFailed
	}
	slog.SetDefault(a.Logger) // aws-lambda-go logs to package log, which this takes over
	lambda.Start(a.Handler)   // never returns
	return exitOK
}

// reportInit tells Lambda why the function can not start, which shows it with
// every invocation instead of "Runtime.ExitError" alone. aws-lambda-go has no
// call for it.
func reportInit(ctx context.Context, api string, problem error) {
	if api == "" {
		return
	}
	body, err := json.Marshal(map[string]any{"errorMessage": problem.Error(), "errorType": "Settings", "stackTrace": []string{}})
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+api+"/2018-06-01/runtime/init/error", bytes.NewReader(body)) //nolint:gosec // the address is Lambda's own
	if err != nil {
		return
	}
	req.Header.Set("Lambda-Runtime-Function-Error-Type", "Settings")
	if resp, err := http.DefaultClient.Do(req); err == nil { //nolint:gosec // the same
		resp.Body.Close()
	}
}
