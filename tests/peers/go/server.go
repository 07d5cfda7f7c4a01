package main

import (
	"context"
	"crypto/tls"
	"flag"
	"io"
	"math"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// How long the server waits for running calls after SIGTERM.
const grace = 2 * time.Second

type list []string

func (l *list) String() string { return strings.Join(*l, " ") }

func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

// Serves until SIGTERM or SIGINT.
func serve(arguments []string) {
	flags := flag.NewFlagSet("server", flag.ExitOnError)
	var listen list
	flags.Var(&listen, "listen", "where to serve; port 0 lets the kernel choose")
	maxStreams := flags.Uint("max-streams", math.MaxUint32, "SETTINGS_MAX_CONCURRENT_STREAMS")
	encrypted := flags.String("tls", "", "serve over TLS, with key.pem and cert.pem of this folder")
	_ = flags.Parse(arguments)

	options := []grpc.ServerOption{
		grpc.MaxConcurrentStreams(uint32(*maxStreams)), grpc.MaxRecvMsgSize(math.MaxInt32), grpc.MaxSendMsgSize(math.MaxInt32),
	}
	if *encrypted != "" {
		certificate, err := tls.LoadX509KeyPair(filepath.Join(*encrypted, "cert.pem"), filepath.Join(*encrypted, "key.pem"))
		if err != nil {
			fail(err.Error())
		}
		options = append(options, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{certificate}})))
	}
	server := grpc.NewServer(options...)
	services := map[string]*grpc.ServiceDesc{}
	for path, method := range methods() {
		name := string(method.Parent().FullName())
		if method.Name() == "UnimplementedCall" {
			continue
		}
		if services[name] == nil {
			services[name] = &grpc.ServiceDesc{ServiceName: name, HandlerType: (*interface{})(nil)}
		}
		add(services[name], path, method)
	}
	for _, service := range services {
		server.RegisterService(service, struct{}{})
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	for _, address := range listen {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			fail(err.Error())
		}
		go func() {
			if err := server.Serve(listener); err != nil {
				fail(err.Error())
			}
		}()
		say("listening " + listener.Addr().String())
	}
	<-stop
	time.AfterFunc(grace, server.Stop)
	server.GracefulStop()
}

// One call in its handler.
type call struct {
	id             uint64
	path           string
	method         protoreflect.MethodDescriptor
	context        context.Context
	messages       uint32
	received       uint64
	index          uint32
	last           []byte // the message that came last
	initial, final metadata.MD
}

var calls uint64

func start(path string, method protoreflect.MethodDescriptor, ctx context.Context) *call {
	c := &call{id: atomic.AddUint64(&calls, 1) - 1, path: path, method: method, context: ctx}
	from := ""
	if peer, ok := peer.FromContext(ctx); ok {
		from = peer.Addr.String()
	}
	all, _ := metadata.FromIncomingContext(ctx)
	c.say(object{"event": "start", "peer": from, "metadata": pairs(all)})
	return c
}

func (c *call) say(event object) {
	event["call"], event["method"] = c.id, c.path
	say(event)
}

// A message that the handler has got.
func (c *call) take(data []byte) (protoreflect.Message, error) {
	message := dynamicpb.NewMessage(c.method.Input())
	if err := proto.Unmarshal(data, message); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	c.say(object{"event": "message", "index": c.messages, "size": len(data), "digest": digest(data), "fields": toJSON(message)})
	c.messages++
	c.last = data
	return message, nil
}

// The handler is done.
func (c *call) end(err error) error {
	code, text := codes.OK, interface{}(nil)
	if err != nil {
		// What ends a stream in its middle comes without a status, or as context.Canceled.
		if c.context.Err() == context.Canceled {
			err = status.Error(codes.Canceled, "the caller went away")
		}
		code, text = status.Code(err), status.Convert(err).Message()
	}
	c.say(object{"event": "end", "messages": c.messages, "code": code, "error": text})
	return err
}

func (c *call) sleep(duration time.Duration) error {
	select {
	case <-time.After(duration):
		return nil
	case <-c.context.Done():
		return status.FromContextError(c.context.Err()).Err()
	}
}

// What a method does: `take` gets the client's next message, `send` sends one.
type handler func(c *call, take func() (protoreflect.Message, error), send func(protoreflect.Message) error) error

func choose(path string) handler {
	switch {
	case path == "/search.SearchService/Search":
		return search
	case path == "/login.LoginService/Login":
		return login
	case strings.HasPrefix(path, "/grpc.testing.TestService/"):
		return interop
	}
	return echo
}

func add(service *grpc.ServiceDesc, path string, method protoreflect.MethodDescriptor) {
	handle := choose(path)
	if method.IsStreamingClient() || method.IsStreamingServer() {
		work := func(_ interface{}, stream grpc.ServerStream) error {
			c := start(path, method, stream.Context())
			take := func() (protoreflect.Message, error) {
				var data []byte
				if err := stream.RecvMsg(&data); err != nil {
					return nil, err
				}
				return c.take(data)
			}
			send := func(message protoreflect.Message) error {
				data, err := proto.MarshalOptions{Deterministic: true}.Marshal(message.Interface())
				if err != nil {
					return err
				}
				return stream.SendMsg(&data)
			}
			return c.end(handle(c, take, send))
		}
		service.Streams = append(service.Streams, grpc.StreamDesc{
			StreamName: string(method.Name()), Handler: work,
			ClientStreams: method.IsStreamingClient(), ServerStreams: method.IsStreamingServer(),
		})
		return
	}
	work := func(_ interface{}, ctx context.Context, dec func(interface{}) error, _ grpc.UnaryServerInterceptor) (interface{}, error) {
		var data, answer []byte
		if err := dec(&data); err != nil {
			return nil, err
		}
		c := start(path, method, ctx)
		take := func() (protoreflect.Message, error) { return c.take(data) }
		send := func(message protoreflect.Message) (err error) {
			answer, err = proto.MarshalOptions{Deterministic: true}.Marshal(message.Interface())
			return
		}
		return &answer, c.end(handle(c, take, send))
	}
	service.Methods = append(service.Methods, grpc.MethodDesc{MethodName: string(method.Name()), Handler: work})
}

// Takes all messages, one after the other, until the client has ended its side.
func each(take func() (protoreflect.Message, error), work func(protoreflect.Message) error) error {
	for {
		message, err := take()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = work(message)
		}
		if err != nil {
			return err
		}
	}
}
