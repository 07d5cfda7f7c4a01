package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// More replies are counted but not printed.
const repliesShown = 16

var codeNames = []string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
	"RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
	"UNAUTHENTICATED",
}

// One channel, and how often it has connected.
type link struct {
	*grpc.ClientConn
	connections int64
}

func connect(target string, encrypted bool) *link {
	l := &link{}
	security := grpc.WithInsecure()
	if encrypted {
		// certificates are not looked at
		security = grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}))
	}
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		stream, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			atomic.AddInt64(&l.connections, 1)
		}
		return stream, err
	}
	sizes := grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32))
	channel, err := grpc.Dial(target, security, grpc.WithContextDialer(dial), sizes)
	if err != nil {
		fail(err.Error())
	}
	l.ClientConn = channel
	return l
}

// A call to make; src/client/call.rs says what its keys mean.
type script struct {
	Method      string        `json:"method"`
	Kind        string        `json:"kind"`
	Messages    []interface{} `json:"messages"`
	Metadata    [][2]string   `json:"metadata"`
	DeadlineMs  int64         `json:"deadline_ms"`
	Group       *uint64       `json:"group"`
	IntervalMs  int64         `json:"interval_ms"`
	Gzip        bool          `json:"gzip"`
	Lockstep    bool          `json:"lockstep"`
	Hold        bool          `json:"hold"`
	CancelAfter *int          `json:"cancel_after"`
	ID          interface{}   `json:"id"`
}

// The same, checked and encoded.
type outgoing struct {
	script
	messages [][]byte
	stream   grpc.StreamDesc
	output   protoreflect.MessageDescriptor
}

func prepare(s script, known map[string]protoreflect.MethodDescriptor) (*outgoing, error) {
	o := &outgoing{script: s}
	var input protoreflect.MessageDescriptor
	if method := known[s.Method]; method != nil {
		input, o.output = method.Input(), method.Output()
		o.stream = grpc.StreamDesc{ClientStreams: method.IsStreamingClient(), ServerStreams: method.IsStreamingServer()}
	}
	if s.Kind != "" {
		o.stream = grpc.StreamDesc{
			ClientStreams: s.Kind == "client" || s.Kind == "bidi", ServerStreams: s.Kind == "server" || s.Kind == "bidi",
		}
	}
	for _, message := range s.Messages {
		data, err := encode(message, input)
		if err != nil {
			return nil, fmt.Errorf("not a message of %s: %w", s.Method, err)
		}
		o.messages = append(o.messages, data)
	}
	if !o.stream.ClientStreams && len(o.messages) != 1 {
		return nil, errors.New("a call that does not stream its requests has one message")
	}
	return o, nil
}

type result struct {
	Type          string        `json:"type"`
	Index         int           `json:"index"`
	ID            interface{}   `json:"id"`
	Method        string        `json:"method"`
	Code          int           `json:"code"`
	Status        string        `json:"status"`
	Message       string        `json:"message"`
	Cause         string        `json:"cause"`
	Responses     int           `json:"responses"`
	ResponseBytes int           `json:"response_bytes"`
	Fields        []interface{} `json:"fields"`
	Digests       []string      `json:"digests"`
	LatencyMs     float64       `json:"latency_ms"`
	Headers       [][2]string   `json:"headers"`
	Trailers      [][2]string   `json:"trailers"`
}

func (o *outgoing) make(l *link, index int) *result {
	r := &result{Type: "result", Index: index, ID: o.ID, Method: o.Method, Fields: []interface{}{}, Digests: []string{}}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if o.DeadlineMs > 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(o.DeadlineMs)*time.Millisecond)
		defer cancel()
	}
	for _, pair := range o.Metadata {
		key, value := pair[0], pair[1]
		if strings.HasSuffix(key, "-bin") {
			data, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
			if err != nil {
				fail("not base64: " + value)
			}
			value = string(data)
		}
		ctx = metadata.AppendToOutgoingContext(ctx, key, value)
	}
	var headers, trailers metadata.MD
	options := []grpc.CallOption{grpc.Header(&headers), grpc.Trailer(&trailers)}
	if o.Gzip {
		options = append(options, grpc.UseCompressor(gzip.Name))
	}
	began := time.Now()
	var err error
	if o.stream.ClientStreams || o.stream.ServerStreams {
		err = o.converse(ctx, cancel, l, r, options)
	} else {
		var reply []byte
		if err = l.Invoke(ctx, o.Method, &o.messages[0], &reply, options...); err == nil {
			r.reply(reply, o.output)
		}
	}
	r.LatencyMs = float64(time.Since(began).Microseconds()) / 1000
	said := status.Convert(err)
	r.Code, r.Message, r.Status = int(said.Code()), said.Message(), "?"
	if r.Code < len(codeNames) {
		r.Status = codeNames[r.Code]
	}
	r.Headers, r.Trailers = pairs(headers), pairs(trailers)
	return r
}

func (r *result) reply(data []byte, kind protoreflect.MessageDescriptor) {
	r.Responses++
	r.ResponseBytes += len(data)
	if len(r.Fields) < repliesShown {
		r.Fields = append(r.Fields, decode(data, kind))
		r.Digests = append(r.Digests, digest(data))
	}
}

func (o *outgoing) converse(ctx context.Context, cancel func(), l *link, r *result, options []grpc.CallOption) error {
	stream, err := l.NewStream(ctx, &o.stream, o.Method, options...)
	if err != nil {
		return err
	}
	replies := make(chan struct{}, len(o.messages))
	go func() {
		for index := range o.messages {
			if index > 0 {
				time.Sleep(time.Duration(o.IntervalMs) * time.Millisecond)
			}
			if index > 0 && o.Lockstep {
				select {
				case <-replies:
				case <-ctx.Done():
				}
			}
			// What goes wrong is told to whoever receives.
			if stream.SendMsg(&o.messages[index]) != nil {
				return
			}
		}
		if !o.Hold {
			_ = stream.CloseSend()
		}
	}()
	if o.CancelAfter != nil && *o.CancelAfter == 0 {
		time.AfterFunc(beginning, cancel)
	}
	for {
		var reply []byte
		if err := stream.RecvMsg(&reply); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		r.reply(reply, o.output)
		if !o.stream.ServerStreams {
			return nil
		}
		select {
		case replies <- struct{}{}:
		default:
		}
		if o.CancelAfter != nil && r.Responses == *o.CancelAfter {
			cancel()
		}
	}
}

// How long a call lasts at least that is cancelled before its first reply.
const beginning = 50 * time.Millisecond

func makeCalls(arguments []string) {
	flags := flag.NewFlagSet("client", flag.ExitOnError)
	target := flags.String("target", "", "the server")
	encrypted := flags.Bool("tls", false, "call over TLS, whatever the certificate")
	many := &storm{}
	flags.IntVar(&many.denials, "denials", 0, "so many calls of the first call read, to see how denials look")
	flags.IntVar(&many.concurrency, "concurrency", 16, "so many at once")
	flags.IntVar(&many.allowed, "allowed", 0, "with --denials: so many calls of the second call read, which shall succeed")
	flags.IntVar(&many.code, "code", 7, "with --denials: the status code that a denial shall have")
	flags.StringVar(&many.message, "message", "", "with --denials: the message that a denial shall have")
	_ = flags.Parse(arguments)

	known, l := methods(), connect(*target, *encrypted)
	for calls := range scripts(known) {
		if many.denials > 0 {
			say(many.run(l, calls))
			return
		}
		before := atomic.LoadInt64(&l.connections)
		batch(l, calls)
		after := atomic.LoadInt64(&l.connections)
		say(object{"type": "done", "connections": after, "new_connections": after - before})
	}
}

// The JSON lists on stdin, each as soon as it is complete.
func scripts(known map[string]protoreflect.MethodDescriptor) <-chan []*outgoing {
	out := make(chan []*outgoing)
	go func() {
		decoder := json.NewDecoder(bufio.NewReader(os.Stdin))
		decoder.UseNumber()
		decoder.DisallowUnknownFields()
		for {
			var list []script
			if err := decoder.Decode(&list); err == io.EOF {
				close(out)
				return
			} else if err != nil {
				fail(err.Error())
			}
			calls := make([]*outgoing, len(list))
			for i, one := range list {
				call, err := prepare(one, known)
				if err != nil {
					fail(err.Error())
				}
				calls[i] = call
			}
			out <- calls
		}
	}()
	return out
}

// Runs neighbours of one group together, everything else one after the other.
func batch(l *link, calls []*outgoing) {
	for from := 0; from < len(calls); {
		to := from + 1
		for to < len(calls) && calls[from].Group != nil && calls[to].Group != nil && *calls[to].Group == *calls[from].Group {
			to++
		}
		var running sync.WaitGroup
		for index := from; index < to; index++ {
			running.Add(1)
			go func(index int) {
				defer running.Done()
				say(calls[index].make(l, index))
			}(index)
		}
		running.Wait()
		from = to
	}
}
