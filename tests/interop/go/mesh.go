package main

// mesh: a gossipsub node that tells everything that happens in one topic; see tests/interop/peers.py for its lines.

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/golang/snappy"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

type event map[string]any

// meshTracer sees the control messages of both directions; it is called from the router's loop, which must not wait
// for a slow reader of our standard output: events go through a buffered channel.
type meshTracer struct {
	events chan<- event
	mu     sync.Mutex
	mesh   map[peer.ID]bool
}

func (t *meshTracer) control(dir string, p peer.ID, ctl *pb.ControlMessage) {
	ihave, iwant, idontwant := 0, 0, 0
	for _, c := range ctl.GetIhave() {
		ihave += len(c.GetMessageIDs())
	}
	for _, c := range ctl.GetIwant() {
		iwant += len(c.GetMessageIDs())
	}
	for _, c := range ctl.GetIdontwant() {
		idontwant += len(c.GetMessageIDs())
	}
	for kind, ids := range map[string]int{"ihave": ihave, "iwant": iwant, "idontwant": idontwant} {
		if ids > 0 {
			t.events <- event{"event": kind, "dir": dir, "peer": p.String(), "count": ids}
		}
	}
	for _, c := range ctl.GetGraft() {
		t.events <- event{"event": "graft", "dir": dir, "peer": p.String(), "topic": c.GetTopicID()}
	}
	for _, c := range ctl.GetPrune() {
		t.events <- event{"event": "prune", "dir": dir, "peer": p.String(), "topic": c.GetTopicID()}
	}
}

func (t *meshTracer) inMesh(p peer.ID, yes bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if yes {
		t.mesh[p] = true
	} else {
		delete(t.mesh, p)
	}
}

func (t *meshTracer) meshSize() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.mesh)
}

func (t *meshTracer) RecvRPC(rpc *pubsub.RPC)                  { t.control("in", rpc.From(), rpc.GetControl()) }
func (t *meshTracer) SendRPC(rpc *pubsub.RPC, p peer.ID)       { t.control("out", p, rpc.GetControl()) }
func (t *meshTracer) Graft(p peer.ID, _ string)                { t.inMesh(p, true) }
func (t *meshTracer) Prune(p peer.ID, _ string)                { t.inMesh(p, false) }
func (t *meshTracer) OnClosedOutboundStream(p peer.ID)         { t.inMesh(p, false) }
func (t *meshTracer) OnNewOutboundStream(peer.ID, protocol.ID) {}
func (t *meshTracer) Join(string)                              {}
func (t *meshTracer) Leave(string)                             {}
func (t *meshTracer) ValidateMessage(*pubsub.Message)          {}
func (t *meshTracer) DeliverMessage(*pubsub.Message)           {}
func (t *meshTracer) DuplicateMessage(*pubsub.Message)         {}
func (t *meshTracer) ThrottlePeer(peer.ID)                     {}
func (t *meshTracer) RejectMessage(m *pubsub.Message, r string) {
	t.lost("rejected", m.ReceivedFrom, r)
}
func (t *meshTracer) DropRPC(_ *pubsub.RPC, p peer.ID) {
	t.lost("dropped", p, "queue full or RPC too large")
}
func (t *meshTracer) UndeliverableMessage(m *pubsub.Message) {
	t.lost("dropped", m.ReceivedFrom, "subscription")
}

func (t *meshTracer) lost(kind string, p peer.ID, reason string) {
	t.events <- event{"event": kind, "peer": p.String(), "reason": reason}
}

// neverPush gives every peer a score that keeps it out of the mesh and above the gossip threshold: what we have is told
// by IHAVE and sent on IWANT only.
func neverPush() pubsub.Option {
	return pubsub.WithPeerScore(
		&pubsub.PeerScoreParams{
			AppSpecificScore:  func(peer.ID) float64 { return -1 },
			AppSpecificWeight: 1,
			DecayInterval:     time.Second,
			DecayToZero:       0.01,
		},
		&pubsub.PeerScoreThresholds{GossipThreshold: -1000, PublishThreshold: -1000, GraylistThreshold: -1000})
}

// payload is what a line of standard input stands for: hex, size:N:SEED (a pattern) or random:N:SEED (incompressible).
func payload(line string) ([]byte, error) {
	parts := strings.Split(line, ":")
	if len(parts) == 1 {
		return hex.DecodeString(line)
	}
	if len(parts) != 3 || (parts[0] != "size" && parts[0] != "random") {
		return nil, fmt.Errorf("neither hex nor size:N:SEED nor random:N:SEED: %.80q", line)
	}
	n, err := strconv.Atoi(parts[1])
	if err != nil || n < 0 || n > 64<<20 {
		return nil, fmt.Errorf("bad size in %.80q", line)
	}
	seed, err := strconv.ParseUint(parts[2], 10, 64)
	if err != nil {
		return nil, err
	}
	if parts[0] == "random" {
		return random(n, seed), nil
	}
	data := make([]byte, n)
	for i := range data {
		data[i] = byte((uint64(i)*31 + seed%251) % 251)
	}
	var head [8]byte
	binary.BigEndian.PutUint64(head[:], seed)
	copy(data, head[:])
	return data, nil
}

// random is SHA-256(be64(seed) || be64(k)) for k = 0, 1, ..., cut to n bytes.
func random(n int, seed uint64) []byte {
	data := make([]byte, 0, n+sha256.Size)
	var block [16]byte
	binary.BigEndian.PutUint64(block[:8], seed)
	for k := uint64(0); len(data) < n; k++ {
		binary.BigEndian.PutUint64(block[8:], k)
		sum := sha256.Sum256(block[:])
		data = append(data, sum[:]...)
	}
	return data[:n]
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

func cmdMesh() {
	ctx := context.Background()
	h := newHost(true, 0)
	serveBasics(h)
	events := make(chan event, 1<<16)
	printed := make(chan struct{})
	go func() {
		for e := range events {
			if e == nil {
				close(printed)
				return
			}
			out(e)
		}
	}()
	tracer := &meshTracer{events: events, mesh: map[peer.ID]bool{}}
	extra := []pubsub.Option{pubsub.WithRawTracer(tracer)}
	if *fNoPush {
		extra = append(extra, neverPush())
	}
	ps := newPubsub(ctx, h, extra...)
	t, err := ps.Join(*fTopic)
	die(err)
	sub, err := t.Subscribe(pubsub.WithBufferSize(*fQueue))
	die(err)
	announce(h)
	go readMesh(ctx, h, sub, events)
	go watchMesh(t, tracer, events)
	for _, a := range fConnect {
		ai, err := peer.AddrInfoFromString(a)
		die(err)
		connect(h, *ai)
	}
	stop := time.AfterFunc(*fMax, func() { die(fmt.Errorf("still running after %v", *fMax)) })
	defer stop.Stop()
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	for {
		line, err := in.ReadString('\n')
		line = strings.TrimSpace(line)
		if line == "quit" || (line == "" && err != nil) {
			break
		}
		data, bad := payload(line)
		die(bad)
		wire := data
		if *fSign == "eth2" {
			wire = snappy.Encode(nil, data)
		}
		if bad := t.Publish(ctx, wire); bad != nil {
			events <- event{"event": "failed", "sha256": sum(data), "error": bad.Error()}
			continue
		}
		events <- event{"event": "published", "size": len(data), "sha256": sum(data)}
		if err == io.EOF {
			break
		}
	}
	events <- nil // what was told so far is printed; the router may still write into the channel
	<-printed
	h.Close()
}

func readMesh(ctx context.Context, h host.Host, sub *pubsub.Subscription, events chan<- event) {
	for {
		m, err := sub.Next(ctx)
		if err != nil {
			return
		}
		if m.ReceivedFrom == h.ID() {
			continue
		}
		data := m.Data
		if *fSign == "eth2" {
			if data, err = snappy.Decode(nil, m.Data); err != nil {
				events <- event{"event": "rejected", "peer": m.ReceivedFrom.String(), "reason": err.Error()}
				continue
			}
		}
		var from any
		if len(m.From) > 0 {
			from = peer.ID(m.From).String()
		}
		events <- event{"event": "message", "topic": m.GetTopic(), "from": from, "received_from": m.ReceivedFrom.String(),
			"size": len(data), "sha256": sum(data)}
	}
}

func watchMesh(t *pubsub.Topic, tracer *meshTracer, events chan<- event) {
	count, mesh := -1, -1
	for range time.Tick(50 * time.Millisecond) {
		c, m := len(t.ListPeers()), tracer.meshSize()
		if c != count || m != mesh {
			count, mesh = c, m
			events <- event{"event": "peers", "topic": *fTopic, "count": c, "mesh": m}
		}
	}
}
