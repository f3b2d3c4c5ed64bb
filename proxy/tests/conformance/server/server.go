package main

import (
	"context"
	"fmt"
	"net"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	gcp "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"
)

// node is the only proxy that is served.
const node = "proxy"

// heartbeat is how often resources with a time to live are prolonged.
const heartbeat = 500 * time.Millisecond

// server listens and can be stopped and started again at the same address; what it knew is lost then.
type server struct {
	scripted bool
	ordered  bool
	address  string
	grpc     *grpc.Server
	cancel   context.CancelFunc
	cache    cache.SnapshotCache
	script   *script
}

func newServer(scripted, ordered bool) *server {
	return &server{scripted: scripted, ordered: ordered, address: "127.0.0.1:0"}
}

func (s *server) do(asked command) error {
	switch asked.Do {
	case "start":
		return s.start()
	case "stop":
		s.grpc.Stop()
		s.cancel()
		return nil
	case "set":
		return s.set(asked)
	case "send":
		return s.script.send(asked)
	}
	return fmt.Errorf("there is no such command")
}

func (s *server) start() error {
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		return err
	}
	s.address = listener.Addr().String()
	s.grpc = grpc.NewServer()
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	if s.scripted {
		s.script = newScript()
		discovery.RegisterAggregatedDiscoveryServiceServer(s.grpc, s.script)
	} else {
		s.cache = cache.NewSnapshotCacheWithHeartbeating(ctx, s.ordered, cache.IDHash{}, nil, heartbeat)
		discovery.RegisterAggregatedDiscoveryServiceServer(s.grpc, gcp.NewServer(ctx, s.cache, callbacks()))
	}
	go func() { _ = s.grpc.Serve(listener) }()
	tell("listening", map[string]any{"address": s.address})
	return nil
}

// set replaces the whole snapshot.
func (s *server) set(asked command) error {
	resources := map[string][]types.ResourceWithTTL{}
	for _, input := range asked.Resources {
		body, err := input.any()
		if err != nil {
			return err
		}
		message, err := body.UnmarshalNew()
		if err != nil {
			return err
		}
		ttl, err := input.ttl()
		if err != nil {
			return err
		}
		resources[body.TypeUrl] = append(resources[body.TypeUrl], types.ResourceWithTTL{Resource: message, TTL: ttl})
	}
	snapshot, err := cache.NewSnapshotWithTTLs(asked.Version, resources)
	if err != nil {
		return err
	}
	return s.cache.SetSnapshot(context.Background(), node, snapshot)
}

func callbacks() gcp.Callbacks {
	return gcp.CallbackFuncs{
		StreamOpenFunc: func(_ context.Context, stream int64, _ string) error {
			tell("opened", map[string]any{"stream": stream})
			return nil
		},
		DeltaStreamOpenFunc: func(_ context.Context, stream int64, _ string) error {
			tell("opened", map[string]any{"stream": stream})
			return nil
		},
		StreamClosedFunc: func(stream int64, _ *core.Node) {
			tell("closed", map[string]any{"stream": stream})
		},
		DeltaStreamClosedFunc: func(stream int64, _ *core.Node) {
			tell("closed", map[string]any{"stream": stream})
		},
		StreamRequestFunc: func(stream int64, request *discovery.DiscoveryRequest) error {
			tellRequest(stream, request)
			return nil
		},
		StreamDeltaRequestFunc: func(stream int64, request *discovery.DeltaDiscoveryRequest) error {
			tellRequest(stream, request)
			return nil
		},
	}
}

// any is the resource's message; nil for a heartbeat.
func (input resourceInput) any() (*anypb.Any, error) {
	switch {
	case input.TypeURL != "":
		return &anypb.Any{TypeUrl: input.TypeURL, Value: input.Bytes}, nil
	case len(input.Body) > 0:
		body := &anypb.Any{}
		return body, protojson.Unmarshal(input.Body, body)
	}
	return nil, nil
}

func (input resourceInput) ttl() (*time.Duration, error) {
	if input.TTL == "" {
		return nil, nil
	}
	ttl, err := time.ParseDuration(input.TTL)
	return &ttl, err
}
