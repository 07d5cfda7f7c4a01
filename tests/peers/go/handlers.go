package main

import (
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

func get(message protoreflect.Message, name string) protoreflect.Value {
	return message.Get(message.Descriptor().Fields().ByName(protoreflect.Name(name)))
}

func set(message protoreflect.Message, name string, value interface{}) {
	message.Set(message.Descriptor().Fields().ByName(protoreflect.Name(name)), protoreflect.ValueOf(value))
}

func (c *call) answer() protoreflect.Message {
	return dynamicpb.NewMessage(c.method.Output())
}

func search(c *call, take func() (protoreflect.Message, error), send func(protoreflect.Message) error) error {
	message, err := take()
	if err != nil {
		return err
	}
	answer := c.answer()
	results := answer.Mutable(answer.Descriptor().Fields().ByName("results")).List()
	results.Append(protoreflect.ValueOfString("first page about " + get(message, "query").String()))
	set(answer, "total", int32(1))
	return send(answer)
}

func login(c *call, take func() (protoreflect.Message, error), send func(protoreflect.Message) error) error {
	message, err := take()
	if err != nil {
		return err
	}
	answer := c.answer()
	set(answer, "ok", true)
	set(answer, "token", "token of "+get(message, "user").String())
	return send(answer)
}

// The echo service: echo.proto says what a request can ask for.
func echo(c *call, take func() (protoreflect.Message, error), send func(protoreflect.Message) error) error {
	reply := func(to protoreflect.Message) error {
		delay := time.Duration(get(to, "delay_ms").Uint()) * time.Millisecond
		if delay == 0 && c.method.Name() == "Slow" {
			delay = time.Second
		}
		if delay > 0 {
			if err := c.sleep(delay); err != nil {
				return err
			}
		}
		if code := get(to, "fail_code").Int(); code != 0 {
			return status.Error(codes.Code(code), get(to, "fail_message").String())
		}
		answer := c.answer()
		set(answer, "text", get(to, "text").String())
		set(answer, "payload", make([]byte, get(to, "reply_bytes").Uint()))
		set(answer, "index", c.index)
		set(answer, "received", c.messages)
		set(answer, "received_bytes", c.received)
		if get(to, "reflect").Bool() {
			// As it came, in the client's order of fields: bytes that are no known field are written last.
			number := answer.Descriptor().Fields().ByName("request").Number()
			answer.SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), c.last))
		}
		c.index++
		return send(answer)
	}
	var last protoreflect.Message = dynamicpb.NewMessage(c.method.Input())
	work := func(message protoreflect.Message) error {
		c.received += uint64(len(get(message, "payload").Bytes()))
		last = message
		if !c.method.IsStreamingServer() {
			return nil
		}
		for times := get(message, "replies").Uint(); ; times-- {
			if err := reply(message); err != nil || times <= 1 {
				return err
			}
		}
	}
	if c.method.IsStreamingClient() {
		if err := each(take, work); err != nil {
			return err
		}
	} else {
		message, err := take()
		if err != nil {
			return err
		}
		if err := work(message); err != nil {
			return err
		}
	}
	if c.method.IsStreamingServer() {
		return nil
	}
	return reply(last)
}

const (
	echoInitial  = "x-grpc-test-echo-initial"
	echoTrailing = "x-grpc-test-echo-trailing-bin"
)

// gRPC's interoperability service.
func interop(c *call, take func() (protoreflect.Message, error), send func(protoreflect.Message) error) error {
	all, _ := metadata.FromIncomingContext(c.context)
	if values := all.Get(echoInitial); len(values) > 0 {
		_ = grpc.SetHeader(c.context, metadata.Pairs(echoInitial, values[0]))
	}
	if values := all.Get(echoTrailing); len(values) > 0 {
		_ = grpc.SetTrailer(c.context, metadata.Pairs(echoTrailing, values[0]))
	}
	failure := func(message protoreflect.Message) error {
		wanted := get(message, "response_status").Message()
		if !wanted.IsValid() {
			return nil
		}
		return status.Error(codes.Code(get(wanted, "code").Int()), get(wanted, "message").String())
	}
	payload := func(size int64) protoreflect.Message {
		answer := c.answer()
		set(answer.Mutable(answer.Descriptor().Fields().ByName("payload")).Message(), "body", make([]byte, size))
		return answer
	}
	stream := func(message protoreflect.Message) error {
		if err := failure(message); err != nil {
			return err
		}
		wanted := get(message, "response_parameters").List()
		for i := 0; i < wanted.Len(); i++ {
			parameters := wanted.Get(i).Message()
			if pause := get(parameters, "interval_us").Int(); pause > 0 {
				if err := c.sleep(time.Duration(pause) * time.Microsecond); err != nil {
					return err
				}
			}
			if err := send(payload(get(parameters, "size").Int())); err != nil {
				return err
			}
		}
		return nil
	}
	switch name := string(c.method.Name()); {
	case strings.HasSuffix(name, "InputCall"):
		var sum int
		err := each(take, func(message protoreflect.Message) error {
			sum += len(get(get(message, "payload").Message(), "body").Bytes())
			return nil
		})
		if err != nil {
			return err
		}
		answer := c.answer()
		set(answer, "aggregated_payload_size", int32(sum))
		return send(answer)
	case name == "FullDuplexCall":
		return each(take, stream)
	case name == "StreamingOutputCall":
		message, err := take()
		if err != nil {
			return err
		}
		return stream(message)
	case name == "UnaryCall":
		message, err := take()
		if err != nil {
			return err
		}
		if err := failure(message); err != nil {
			return err
		}
		return send(payload(get(message, "response_size").Int()))
	default: // EmptyCall
		if _, err := take(); err != nil {
			return err
		}
		return send(c.answer())
	}
}
