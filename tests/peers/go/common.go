package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"sort"
	"strings"
	"sync"
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

type object = map[string]interface{}

// Longer strings are shortened in what the peers print.
const shown = 100

// Metadata that every call has, and that says nothing about the caller's own.
var own = map[string]bool{
	"te": true, "user-agent": true, "content-type": true, "grpc-accept-encoding": true, "accept-encoding": true, "grpc-timeout": true,
}

var output sync.Mutex

// Prints one line, whole and at once.
func say(line interface{}) {
	text, ok := line.(string)
	if !ok {
		var buffer bytes.Buffer
		encoder := json.NewEncoder(&buffer)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(line); err != nil {
			fail(err.Error())
		}
		text = strings.TrimSuffix(buffer.String(), "\n")
	}
	output.Lock()
	defer output.Unlock()
	// Nobody reads any more: the server goes on serving.
	_, _ = os.Stdout.WriteString(text + "\n")
}

func fail(text string) {
	fmt.Fprintln(os.Stderr, "pg-go: "+text)
	os.Exit(1)
}

// Messages as the bytes that they are. It has the name of the codec that grpc-go takes without being told, and its place.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(message interface{}) ([]byte, error) { return *message.(*[]byte), nil }

func (raw) Unmarshal(data []byte, message interface{}) error {
	*message.(*[]byte) = append([]byte{}, data...)
	return nil
}

func init() {
	encoding.RegisterCodec(raw{})
}

// The .proto files' methods by path, from the FileDescriptorSet that PROTOCG_DESCRIPTORS names.
func methods() map[string]protoreflect.MethodDescriptor {
	data, err := os.ReadFile(os.Getenv("PROTOCG_DESCRIPTORS"))
	if err != nil {
		fail("PROTOCG_DESCRIPTORS must name a FileDescriptorSet: " + err.Error())
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(data, set); err != nil {
		fail(err.Error())
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		fail(err.Error())
	}
	found := map[string]protoreflect.MethodDescriptor{}
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := 0; i < file.Services().Len(); i++ {
			service := file.Services().Get(i)
			for j := 0; j < service.Methods().Len(); j++ {
				method := service.Methods().Get(j)
				found["/"+string(service.FullName())+"/"+string(method.Name())] = method
			}
		}
		return true
	})
	return found
}

// The bytes of a message given in JSON; without a type: `@hex` only. src/json.rs says what else may stand in it.
func encode(message interface{}, kind protoreflect.MessageDescriptor) ([]byte, error) {
	if fields, ok := message.(object); ok {
		if digits, ok := fields["@hex"].(string); ok {
			return hex.DecodeString(digits)
		}
	}
	if kind == nil {
		return nil, errors.New("a method that the descriptors don't know takes @hex messages only")
	}
	text, err := json.Marshal(fill(message))
	if err != nil {
		return nil, err
	}
	typed := dynamicpb.NewMessage(kind)
	if err := protojson.Unmarshal(text, typed); err != nil {
		return nil, err
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(typed)
}

// The JSON of a message's bytes, long values shortened; the bytes in hex if they don't parse.
func decode(data []byte, kind protoreflect.MessageDescriptor) interface{} {
	if kind != nil {
		typed := dynamicpb.NewMessage(kind)
		if proto.Unmarshal(data, typed) == nil {
			return toJSON(typed)
		}
	}
	return shorten(object{"@hex": hex.EncodeToString(data)})
}

func toJSON(message proto.Message) interface{} {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
	if err != nil {
		fail(err.Error())
	}
	value, err := parse(text)
	if err != nil {
		fail(err.Error())
	}
	return shorten(value)
}

// JSON with its numbers as they are written.
func parse(text []byte) (value interface{}, err error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	err = decoder.Decode(&value)
	return
}

func digest(data []byte) string {
	return fmt.Sprintf("%08x", crc32.ChecksumIEEE(data))
}

// So many bytes: the numbers 0, 1, 2 and so on, of four bytes each, the highest first.
func pattern(size int) []byte {
	out := make([]byte, (size+3)/4*4)
	for i := 0; i < len(out); i += 4 {
		binary.BigEndian.PutUint32(out[i:], uint32(i/4))
	}
	return out[:size]
}

func fill(value interface{}) interface{} {
	switch value := value.(type) {
	case object:
		if size, ok := length(value["@text"]); ok {
			return strings.Repeat("x", size)
		}
		if size, ok := length(value["@bytes"]); ok {
			return base64.StdEncoding.EncodeToString(pattern(size))
		}
		out := object{}
		for key, item := range value {
			out[key] = fill(item)
		}
		return out
	case []interface{}:
		out := make([]interface{}, len(value))
		for i, item := range value {
			out[i] = fill(item)
		}
		return out
	}
	return value
}

func length(value interface{}) (int, bool) {
	number, ok := value.(json.Number)
	if !ok {
		return 0, false
	}
	size, err := number.Int64()
	return int(size), err == nil
}

func shorten(value interface{}) interface{} {
	switch value := value.(type) {
	case object:
		for key, item := range value {
			value[key] = shorten(item)
		}
	case []interface{}:
		for i, item := range value {
			value[i] = shorten(item)
		}
	case string:
		if size := utf8.RuneCountInString(value); size > shown {
			return fmt.Sprintf("%s...(%d)", string([]rune(value)[:16]), size)
		}
	}
	return value
}

// Metadata as a list of pairs, repeated keys kept; binary values in base64. grpc-go does not say in which order keys came.
func pairs(all metadata.MD) [][2]string {
	keys := make([]string, 0, len(all))
	for key := range all {
		if !own[key] && !strings.HasPrefix(key, ":") {
			keys = append(keys, key)
		}
	}
	sort.Strings(keys)
	out := [][2]string{}
	for _, key := range keys {
		for _, value := range all[key] {
			if strings.HasSuffix(key, "-bin") {
				value = base64.RawStdEncoding.EncodeToString([]byte(value))
			}
			out = append(out, [2]string{key, value})
		}
	}
	return out
}
