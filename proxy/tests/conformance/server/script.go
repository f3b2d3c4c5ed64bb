package main

import (
	"fmt"
	"strings"
	"sync"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// script answers nothing by itself; what it is told goes to the stream opened last.
type script struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	mutex  sync.Mutex
	opened int64
	sotw   discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer
	delta  discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
}

func newScript() *script {
	return &script{}
}

func (s *script) StreamAggregatedResources(stream discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	s.mutex.Lock()
	s.sotw, s.delta = stream, nil
	number := s.open()
	s.mutex.Unlock()
	return follow(number, stream.Recv)
}

func (s *script) DeltaAggregatedResources(stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	s.mutex.Lock()
	s.sotw, s.delta = nil, stream
	number := s.open()
	s.mutex.Unlock()
	return follow(number, stream.Recv)
}

// follow tells of every request of a stream, and of its end.
func follow[T proto.Message](number int64, receive func() (T, error)) error {
	for {
		request, err := receive()
		if err != nil {
			tell("closed", map[string]any{"stream": number})
			return err
		}
		tellRequest(number, request)
	}
}

// open counts a stream. The mutex is held.
func (s *script) open() int64 {
	s.opened++
	tell("opened", map[string]any{"stream": s.opened})
	return s.opened
}

func (s *script) send(asked command) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	switch {
	case s.delta != nil:
		return s.sendDelta(asked)
	case s.sotw != nil:
		return s.sendSotw(asked)
	}
	return fmt.Errorf("no stream is open")
}

func (s *script) sendDelta(asked command) error {
	response := &discovery.DeltaDiscoveryResponse{
		SystemVersionInfo: asked.Version + strings.Repeat("x", asked.Padding),
		TypeUrl:           asked.Type,
		Nonce:             asked.Nonce,
		RemovedResources:  asked.Removed,
	}
	for _, input := range asked.Resources {
		resource, err := input.wrapped()
		if err != nil {
			return err
		}
		response.Resources = append(response.Resources, resource)
	}
	return s.delta.Send(response)
}

func (s *script) sendSotw(asked command) error {
	response := &discovery.DiscoveryResponse{
		VersionInfo: asked.Version + strings.Repeat("x", asked.Padding),
		TypeUrl:     asked.Type,
		Nonce:       asked.Nonce,
	}
	for _, input := range asked.Resources {
		body, err := input.any()
		if err != nil {
			return err
		}
		if body == nil || input.TTL != "" {
			resource, err := input.wrapped()
			if err != nil {
				return err
			}
			body = &anypb.Any{}
			if err := anypb.MarshalFrom(body, resource, proto.MarshalOptions{}); err != nil {
				return err
			}
		}
		response.Resources = append(response.Resources, body)
	}
	return s.sotw.Send(response)
}

func (input resourceInput) wrapped() (*discovery.Resource, error) {
	body, err := input.any()
	if err != nil {
		return nil, err
	}
	resource := &discovery.Resource{Name: input.Name, Version: input.Version, Resource: body}
	ttl, err := input.ttl()
	if ttl != nil {
		resource.Ttl = durationpb.New(*ttl)
	}
	return resource, err
}
