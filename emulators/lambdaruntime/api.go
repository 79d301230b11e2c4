package lambdaruntime

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// maxAnswer is the largest answer of a function.
const maxAnswer = 6 << 20

// api is the Runtime API, version 2018-06-01.
func (f *Function) api() http.Handler {
	mux := http.NewServeMux()
	const root = "/2018-06-01/runtime/"
	mux.HandleFunc("GET "+root+"invocation/next", f.next)
	mux.HandleFunc("POST "+root+"invocation/{id}/response", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAnswer))
		out := outcome{answer: body}
		if err != nil {
			out = outcome{err: &FunctionError{Type: "Function.ResponseSizeTooLarge", Message: "the answer can not be read, or is too large"}}
		}
		f.finish(w, r.PathValue("id"), out)
	})
	mux.HandleFunc("POST "+root+"invocation/{id}/error", func(w http.ResponseWriter, r *http.Request) {
		f.finish(w, r.PathValue("id"), outcome{err: reported(w, r)})
	})
	mux.HandleFunc("POST "+root+"init/error", func(w http.ResponseWriter, r *http.Request) {
		err := reported(w, r)
		f.mu.Lock()
		f.initError = err
		f.mu.Unlock()
		accepted(w)
	})
	return mux
}

// next waits for an event and gives it to the program.
func (f *Function) next(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	if !f.asked {
		f.asked = true
		close(f.ready)
	}
	generation := f.generation
	f.mu.Unlock()
	select {
	case inv := <-f.waits:
		if r.Context().Err() != nil || !f.begin(inv, generation) {
			f.work.Go(func() { // to the program that runs instead
				select {
				case f.waits <- inv:
				case <-f.ctx.Done():
				}
			})
			return
		}
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Lambda-Runtime-Aws-Request-Id", inv.id)
		h.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(time.Now().Add(f.options.Timeout).UnixMilli(), 10))
		h.Set("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:123456789012:function:"+f.options.Name)
		h.Set("Lambda-Runtime-Trace-Id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0")
		_, _ = w.Write(inv.payload) // a program that has gone is seen by its end
	case <-r.Context().Done(): // the program has gone
	case <-f.ctx.Done():
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// begin makes inv the event that the program works at; false if that program has
// ended.
func (f *Function) begin(inv *invocation, generation int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if generation != f.generation {
		return false
	}
	if f.current != nil { // it asked for the next before it answered
		f.current.end(outcome{err: &FunctionError{Type: "Runtime.NoResponse", Message: "the program asked for another event instead of answering"}})
	}
	f.current = inv
	inv.kill = time.AfterFunc(f.options.Timeout, func() { f.timeout(inv) })
	return true
}

// timeout ends an event that takes too long, and the program with it.
func (f *Function) timeout(inv *invocation) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current != inv {
		return
	}
	f.current = nil
	inv.end(outcome{err: &FunctionError{Type: "Sandbox.Timedout", Message: fmt.Sprintf("Task timed out after %v", f.options.Timeout)}})
	if f.killProgram != nil {
		_ = f.killProgram() // it may have ended
	}
}

func (f *Function) setKill(kill func() error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.killProgram = kill
}

// end delivers the outcome. It is called once, by whoever took the invocation
// from Function.current.
func (i *invocation) end(out outcome) {
	if i.kill != nil {
		i.kill.Stop()
	}
	i.done <- out
}

// finish takes what the program reports of the event that it works at.
func (f *Function) finish(w http.ResponseWriter, id string, out outcome) {
	f.mu.Lock()
	inv := f.current
	if inv != nil && inv.id == id {
		f.current = nil
	} else {
		inv = nil
	}
	f.mu.Unlock()
	if inv == nil {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"errorType":"InvalidRequestID","errorMessage":"no event of this id is worked at"}`)
		return
	}
	inv.end(out)
	accepted(w)
}

func accepted(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_, _ = io.WriteString(w, `{"status":"OK"}`)
}

// reported reads the error that a program reports.
func reported(w http.ResponseWriter, r *http.Request) error {
	var e struct {
		Message string `json:"errorMessage"`
		Type    string `json:"errorType"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAnswer)).Decode(&e); err != nil {
		return &FunctionError{Type: r.Header.Get("Lambda-Runtime-Function-Error-Type"), Message: "the program reports an error that can not be read"}
	}
	return &FunctionError{Type: e.Type, Message: e.Message}
}
