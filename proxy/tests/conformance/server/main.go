// Command conformance is a control plane for tests of weir-proxy. It serves the aggregated discovery service from
// go-control-plane's snapshot cache, or, with -scripted, answers only as it is told.
//
// Commands are lines of JSON on standard input; what happens is told as lines of JSON on standard output.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
)

// Lines of commands may hold whole resources.
const longestCommand = 16 << 20

// command is what standard input asks for.
type command struct {
	// Do is "start", "stop", "set" (the snapshot) or "send" (one scripted response).
	Do        string          `json:"do"`
	Type      string          `json:"type"`
	Version   string          `json:"version"`
	Nonce     string          `json:"nonce"`
	Resources []resourceInput `json:"resources"`
	Removed   []string        `json:"removed"`
	// Padding makes a scripted response larger by so many bytes.
	Padding int `json:"padding"`
}

// resourceInput is a resource in protobuf's JSON form, or bytes under a type's name; neither: a heartbeat.
type resourceInput struct {
	Name    string          `json:"name"`
	Version string          `json:"version"`
	TTL     string          `json:"ttl"`
	Body    json.RawMessage `json:"body"`
	TypeURL string          `json:"type_url"`
	Bytes   []byte          `json:"bytes"`
}

// told serializes what standard output says.
var told sync.Mutex

func tell(event string, fields map[string]any) {
	line := map[string]any{"event": event}
	for key, value := range fields {
		line[key] = value
	}
	text, err := json.Marshal(line)
	if err != nil {
		log.Fatalf("cannot tell %s: %v", event, err)
	}
	told.Lock()
	defer told.Unlock()
	fmt.Println(string(text))
}

func tellRequest(stream int64, request proto.Message) {
	text, err := protojson.Marshal(request)
	if err != nil {
		log.Fatalf("a request that is no JSON: %v", err)
	}
	tell("request", map[string]any{"stream": stream, "request": json.RawMessage(text)})
}

func main() {
	scripted := flag.Bool("scripted", false, "answer only as told")
	ordered := flag.Bool("ads", false, "answer once everything of a type is asked for, in the order of types")
	flag.Parse()
	server := newServer(*scripted, *ordered)
	commands := bufio.NewScanner(os.Stdin)
	commands.Buffer(nil, longestCommand)
	for commands.Scan() {
		var asked command
		if err := json.Unmarshal(commands.Bytes(), &asked); err != nil {
			log.Fatalf("a command that is no JSON: %v", err)
		}
		if err := server.do(asked); err != nil {
			log.Fatalf("%s: %v", asked.Do, err)
		}
		tell("done", map[string]any{"do": asked.Do})
	}
	if err := commands.Err(); err != nil {
		log.Fatal(err)
	}
}
