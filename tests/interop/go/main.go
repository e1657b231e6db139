// gopeer is the go-libp2p peer of the interop tests and benchmarks; sub-commands and flags as in tests/interop/peers.py.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/golang/snappy"
	"github.com/libp2p/go-libp2p"
	mplex "github.com/libp2p/go-libp2p-mplex"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	tls "github.com/libp2p/go-libp2p/p2p/security/tls"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ws "github.com/libp2p/go-libp2p/p2p/transport/websocket"
)

const (
	perfID  = "/perf/1.0.0"
	echoID  = "/echo/1.0.0"
	statsID = "/gopeer/stats/1.0.0"
)

var (
	fTransport = flag.String("transport", "tcp", "tcp|ws|wss|quic")
	fSecurity  = flag.String("security", "noise", "noise|tls|both (quic ignores it)")
	fMuxer     = flag.String("muxer", "yamux", "yamux|mplex|both (quic ignores it)")
	fPort      = flag.Int("port", 0, "listen port")
	fWebCert   = flag.String("web-cert", "", "wss: PEM file with a certificate and its key, which a listener shows")
	fSeed      = flag.Int64("seed", -1, "deterministic identity from this seed (>=0)")
	fKey       = flag.String("key", "ed25519", "ed25519|secp256k1|ecdsa|rsa")
	fRcmgr     = flag.String("rcmgr", "none", "none|default (go-libp2p's default resource manager)")
	fConnmgr   = flag.String("connmgr", "none", "none|default (160/192)")
	fMetrics   = flag.Bool("metrics", true, "Prometheus metrics on (go-libp2p default)")
	fAgent     = flag.String("agent", "gopeer/0.51.0", "identify agent version")
	fUpload    = flag.Uint64("upload", 0, "perf upload bytes")
	fDownload  = flag.Uint64("download", 0, "perf download bytes")
	fRuns      = flag.Int("runs", 1, "perf runs")
	fBlock     = flag.Int("block", 65536, "perf write block size")
	fStats     = flag.Bool("server-stats", false, "perf: also read the (gopeer) server's CPU through "+statsID)
	fCount     = flag.Int("count", 100, "count")
	fConc      = flag.Int("concurrency", 1, "concurrency")
	fTopic     = flag.String("topic", "t", "topic")
	fSize      = flag.Int("size", 200, "message size")
	fSign      = flag.String("sign", "strict", "strict (StrictSign) | none (StrictNoSign) | eth2 (StrictNoSign + Prysm's gossipsub params + post-Altair message id + snappy payload)")
	fPushAfter = flag.Duration("push-after", 0, "listen: register /pushed/1.0.0 after this long (triggers an identify push)")
	fInterval  = flag.Duration("keepalive-interval", 0, "yamux keepalive interval (0 = go-libp2p's 30s)")
	fLinger    = flag.Duration("linger", 5*time.Second, "pubsub: stay this long after the last publish")
	fSubscribe = flag.Bool("subscribe", false, "pubsub: the publisher subscribes too (mesh instead of fanout)")
	fRate      = flag.Int("rate", 0, "pubsub: messages/s limit (0 = none)")
	fHold      = flag.Duration("hold", 3*time.Second, "idle: hold time")
	fMax       = flag.Duration("max", 600*time.Second, "listen: hard stop")
	fQueue     = flag.Int("queue", 65536, "pubsub queue sizes (outbound/validate/subscription)")
	fMaxSize   = flag.Int("max-size", 10<<20, "pubsub: largest RPC in bytes, sent and received")
	fHeartbeat = flag.Int("heartbeat-ms", 0, "pubsub: heartbeat interval in ms (0 = go-libp2p-pubsub's 1000, 700 with --sign eth2)")
	fNoPush    = flag.Bool("no-push", false, "mesh: nothing is sent in full unless asked for by IWANT")
	fConnect   addresses
)

type addresses []string

func (a *addresses) String() string     { return strings.Join(*a, " ") }
func (a *addresses) Set(v string) error { *a = append(*a, v); return nil }

func die(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "gopeer:", err)
		os.Exit(1)
	}
}

func out(v any) {
	b, err := json.Marshal(v)
	die(err)
	fmt.Println(string(b))
}

type seeded struct{ r *rand.Rand }

func (s seeded) Read(p []byte) (int, error) { return s.r.Read(p) }

func newKey(off int64) crypto.PrivKey {
	var src io.Reader
	seed := *fSeed
	if seed < 0 {
		seed = time.Now().UnixNano() ^ int64(os.Getpid())<<20
	}
	src = seeded{rand.New(rand.NewSource(seed + off*7919))}
	var k crypto.PrivKey
	var err error
	switch *fKey {
	case "ed25519":
		k, _, err = crypto.GenerateEd25519Key(src)
	case "secp256k1":
		k, _, err = crypto.GenerateSecp256k1Key(src)
	case "ecdsa":
		k, _, err = crypto.GenerateECDSAKeyPair(src)
	case "rsa":
		k, _, err = crypto.GenerateRSAKeyPair(2048, src)
	default:
		err = fmt.Errorf("unknown key type %q", *fKey)
	}
	die(err)
	return k
}

func newHost(listen bool, off int64) host.Host {
	opts := []libp2p.Option{
		libp2p.Identity(newKey(off)),
		libp2p.DisableRelay(),
		libp2p.UserAgent(*fAgent),
	}
	if *fRcmgr == "none" {
		opts = append(opts, libp2p.ResourceManager(&network.NullResourceManager{}))
	}
	if *fConnmgr == "none" {
		cm, err := connmgr.NewConnManager(100000, 200000)
		die(err)
		opts = append(opts, libp2p.ConnectionManager(cm))
	}
	if !*fMetrics {
		opts = append(opts, libp2p.DisableMetrics())
	}
	addr := ""
	switch *fTransport {
	case "tcp":
		opts = append(opts, libp2p.Transport(tcp.NewTCPTransport))
		addr = fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", *fPort)
	case "ws":
		opts = append(opts, libp2p.Transport(ws.New))
		addr = fmt.Sprintf("/ip4/127.0.0.1/tcp/%d/ws", *fPort)
	case "wss":
		opts = append(opts, libp2p.Transport(ws.New, ws.WithTLSConfig(webCertificate()), ws.WithTLSClientConfig(trusting())))
		addr = fmt.Sprintf("/ip4/127.0.0.1/tcp/%d/wss", *fPort)
	case "quic":
		opts = append(opts, libp2p.Transport(quic.NewTransport))
		addr = fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1", *fPort)
	default:
		die(fmt.Errorf("unknown transport %q", *fTransport))
	}
	switch *fSecurity {
	case "noise":
		opts = append(opts, libp2p.Security(noise.ID, noise.New))
	case "tls":
		opts = append(opts, libp2p.Security(tls.ID, tls.New))
	case "both":
		opts = append(opts, libp2p.Security(tls.ID, tls.New), libp2p.Security(noise.ID, noise.New))
	default:
		die(fmt.Errorf("unknown security %q", *fSecurity))
	}
	switch *fMuxer {
	case "yamux":
		t := *yamux.DefaultTransport
		if *fInterval > 0 {
			t.KeepAliveInterval = *fInterval
		}
		opts = append(opts, libp2p.Muxer(yamux.ID, &t))
	case "mplex":
		opts = append(opts, libp2p.Muxer(mplex.ID, mplex.DefaultTransport))
	case "both":
		opts = append(opts, libp2p.Muxer(yamux.ID, yamux.DefaultTransport), libp2p.Muxer(mplex.ID, mplex.DefaultTransport))
	default:
		die(fmt.Errorf("unknown muxer %q", *fMuxer))
	}
	if listen {
		opts = append(opts, libp2p.ListenAddrStrings(addr))
	} else {
		opts = append(opts, libp2p.NoListenAddrs)
	}
	h, err := libp2p.New(opts...)
	die(err)
	return h
}

func cpu() (float64, float64) {
	var ru syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &ru)
	return float64(ru.Utime.Sec) + float64(ru.Utime.Usec)/1e6, float64(ru.Stime.Sec) + float64(ru.Stime.Usec)/1e6
}

func rss() int64 {
	b, _ := os.ReadFile("/proc/self/statm")
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	n, _ := strconv.ParseInt(f[1], 10, 64)
	return n * int64(os.Getpagesize())
}

type stats struct {
	User, Sys  float64
	RSS        int64
	HeapInuse  uint64
	HeapAlloc  uint64
	StackInuse uint64
	Goroutines int
	Conns      int
	FDs        int
}

func serveBasics(h host.Host) {
	h.SetStreamHandler(perfID, func(s network.Stream) {
		var hdr [8]byte
		if _, err := io.ReadFull(s, hdr[:]); err != nil {
			s.Reset()
			return
		}
		n := binary.BigEndian.Uint64(hdr[:])
		buf := make([]byte, *fBlock)
		for {
			_, err := s.Read(buf)
			if err == io.EOF {
				break
			}
			if err != nil {
				s.Reset()
				return
			}
		}
		for n > 0 {
			k := uint64(len(buf))
			if n < k {
				k = n
			}
			m, err := s.Write(buf[:k])
			if err != nil {
				s.Reset()
				return
			}
			n -= uint64(m)
		}
		s.Close()
	})
	h.SetStreamHandler(echoID, func(s network.Stream) {
		buf := make([]byte, 4096)
		for {
			n, err := s.Read(buf)
			if n > 0 {
				if _, werr := s.Write(buf[:n]); werr != nil {
					s.Reset()
					return
				}
			}
			if err == io.EOF {
				s.Close()
				return
			}
			if err != nil {
				s.Reset()
				return
			}
		}
	})
	h.SetStreamHandler(statsID, func(s network.Stream) {
		cmd, _ := io.ReadAll(io.LimitReader(s, 16))
		if string(cmd) == "gc" {
			runtime.GC()
			debug.FreeOSMemory()
		}
		var ms runtime.MemStats
		runtime.ReadMemStats(&ms)
		u, sy := cpu()
		fds, _ := os.ReadDir("/proc/self/fd")
		json.NewEncoder(s).Encode(stats{u, sy, rss(), ms.HeapInuse, ms.HeapAlloc, ms.StackInuse, runtime.NumGoroutine(), len(h.Network().Conns()), len(fds)})
		s.Close()
	})
}

func getStats(h host.Host, p peer.ID, cmd string) stats {
	var st stats
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, err := h.NewStream(ctx, p, statsID)
	die(err)
	s.Write([]byte(cmd))
	s.CloseWrite()
	die(json.NewDecoder(s).Decode(&st))
	s.Close()
	return st
}

func announce(h host.Host) {
	for _, a := range h.Addrs() {
		fmt.Printf("LISTEN %s/p2p/%s\n", a, h.ID())
		return
	}
	for _, a := range h.Network().ListenAddresses() {
		fmt.Printf("LISTEN %s/p2p/%s\n", a, h.ID())
		return
	}
	die(fmt.Errorf("no listen address"))
}

func waitEnd(extra <-chan struct{}) {
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGTERM, syscall.SIGINT)
	eof := make(chan struct{})
	go func() { io.Copy(io.Discard, bufio.NewReader(os.Stdin)); close(eof) }()
	select {
	case <-sig:
	case <-eof:
	case <-extra:
	case <-time.After(*fMax):
	}
	u, s := cpu()
	fmt.Fprintf(os.Stderr, "STATS user=%.3f sys=%.3f rss=%d\n", u, s, rss())
}

func target(args []string) peer.AddrInfo {
	if len(args) < 1 {
		die(fmt.Errorf("need ADDR"))
	}
	ai, err := peer.AddrInfoFromString(args[0])
	die(err)
	return *ai
}

func connect(h host.Host, ai peer.AddrInfo) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	die(h.Connect(ctx, ai))
}

func cmdListen() {
	h := newHost(true, 0)
	serveBasics(h)
	announce(h)
	if *fPushAfter > 0 {
		time.AfterFunc(*fPushAfter, func() {
			h.SetStreamHandler("/pushed/1.0.0", func(s network.Stream) { s.Close() })
			fmt.Fprintln(os.Stderr, "PUSHED /pushed/1.0.0")
		})
	}
	waitEnd(nil)
	h.Close()
}

// hold: one idle connection for --hold; reports whether it lived, and any protocols learned by identify push.
func cmdHold(ai peer.AddrInfo) {
	h := newHost(false, 1)
	serveBasics(h)
	connect(h, ai)
	before, _ := h.Peerstore().GetProtocols(ai.ID)
	gone := make(chan time.Time, 1)
	h.Network().Notify(&network.NotifyBundle{DisconnectedF: func(network.Network, network.Conn) {
		select {
		case gone <- time.Now():
		default:
		}
	}})
	t0 := time.Now()
	alive := true
	select {
	case <-gone:
		alive = false
	case <-time.After(*fHold):
	}
	after, _ := h.Peerstore().GetProtocols(ai.ID)
	out(map[string]any{"alive": alive, "secs": time.Since(t0).Seconds(), "protocols_before": len(before), "protocols_after": after})
	h.Close()
}

func cmdIdentify(ai peer.AddrInfo) {
	h := newHost(false, 1)
	defer h.Close()
	t0 := time.Now()
	connect(h, ai) // waits for identify
	secs := time.Since(t0).Seconds()
	protos, _ := h.Peerstore().GetProtocols(ai.ID)
	agent, _ := h.Peerstore().Get(ai.ID, "AgentVersion")
	pv, _ := h.Peerstore().Get(ai.ID, "ProtocolVersion")
	addrs := []string{}
	for _, a := range h.Peerstore().Addrs(ai.ID) {
		addrs = append(addrs, a.String())
	}
	cs := h.Network().ConnsToPeer(ai.ID)
	st := map[string]any{}
	if len(cs) > 0 {
		c := cs[0].ConnState()
		st["muxer"], st["security"], st["transport"], st["early_muxer"] = c.StreamMultiplexer, c.Security, c.Transport, c.UsedEarlyMuxerNegotiation
	}
	_, hasRec := h.Peerstore().(peerstore.CertifiedAddrBook)
	sprOK := false
	if hasRec {
		sprOK = h.Peerstore().(peerstore.CertifiedAddrBook).GetPeerRecord(ai.ID) != nil
	}
	kt := ""
	if pk := h.Peerstore().PubKey(ai.ID); pk != nil {
		kt = pk.Type().String()
	}
	out(map[string]any{"peer_id": ai.ID.String(), "agent": agent, "protocol_version": pv, "protocols": protos, "addrs": addrs, "secs": secs, "conn": st, "signed_peer_record": sprOK, "key_type": kt})
}

func cmdPerf(ai peer.AddrInfo) {
	h := newHost(false, 1)
	defer h.Close()
	connect(h, ai)
	for i := 0; i < *fRuns; i++ {
		var s0, s1 stats
		if *fStats {
			s0 = getStats(h, ai.ID, "")
		}
		u0, y0 := cpu()
		buf := make([]byte, *fBlock)
		t0 := time.Now()
		s, err := h.NewStream(context.Background(), ai.ID, perfID)
		die(err)
		var hdr [8]byte
		binary.BigEndian.PutUint64(hdr[:], *fDownload)
		_, err = s.Write(hdr[:])
		die(err)
		for n := *fUpload; n > 0; {
			k := uint64(len(buf))
			if n < k {
				k = n
			}
			m, err := s.Write(buf[:k])
			die(err)
			n -= uint64(m)
		}
		die(s.CloseWrite())
		var got uint64
		var tUp time.Time
		for {
			n, err := s.Read(buf)
			if tUp.IsZero() {
				tUp = time.Now()
			}
			got += uint64(n)
			if err == io.EOF {
				break
			}
			die(err)
		}
		t1 := time.Now()
		s.Close()
		u1, y1 := cpu()
		up, down := tUp.Sub(t0).Seconds(), t1.Sub(tUp).Seconds()
		m := map[string]any{"upload_bytes": *fUpload, "download_bytes": got, "secs": t1.Sub(t0).Seconds(), "upload_secs": up, "download_secs": down,
			"up_MBps": float64(*fUpload) / 1e6 / up, "down_MBps": 0.0, "client_user": u1 - u0, "client_sys": y1 - y0}
		if *fDownload > 0 {
			m["down_MBps"] = float64(got) / 1e6 / down
		}
		if *fStats {
			s1 = getStats(h, ai.ID, "")
			m["server_user"], m["server_sys"] = s1.User-s0.User, s1.Sys-s0.Sys
		}
		if got != *fDownload {
			m["error"] = "short download"
		}
		out(m)
	}
}

func cmdPing(ai peer.AddrInfo) {
	h := newHost(false, 1)
	defer h.Close()
	connect(h, ai)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ch := ping.Ping(ctx, h, ai.ID)
	us := make([]float64, 0, *fCount)
	t0 := time.Now()
	for i := 0; i < *fCount; i++ {
		r, ok := <-ch
		if !ok {
			die(fmt.Errorf("ping stream ended"))
		}
		die(r.Error)
		us = append(us, float64(r.RTT.Nanoseconds())/1e3)
	}
	el := time.Since(t0).Seconds()
	sort.Float64s(us)
	out(map[string]any{"n": len(us), "median_us": us[len(us)/2], "p99_us": us[len(us)*99/100], "secs": el})
}

func cmdHandshakes(ai peer.AddrInfo) {
	c := *fConc
	hosts := make([]host.Host, c)
	for i := range hosts {
		hosts[i] = newHost(false, int64(i)+1)
	}
	var next, fails int64
	var lat []float64
	var mu sync.Mutex
	u0, y0 := cpu()
	t0 := time.Now()
	var wg sync.WaitGroup
	for _, h := range hosts {
		wg.Add(1)
		go func(h host.Host) {
			defer wg.Done()
			for int(atomic.AddInt64(&next, 1)) <= *fCount {
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				a := time.Now()
				err := h.Connect(ctx, ai)
				d := time.Since(a)
				cancel()
				if err != nil {
					if atomic.AddInt64(&fails, 1) == 1 {
						fmt.Fprintln(os.Stderr, "first failure:", err)
					}
					continue
				}
				mu.Lock()
				lat = append(lat, d.Seconds()*1e3)
				mu.Unlock()
				h.Network().ClosePeer(ai.ID)
			}
		}(h)
	}
	wg.Wait()
	el := time.Since(t0).Seconds()
	u1, y1 := cpu()
	sort.Float64s(lat)
	med := 0.0
	if len(lat) > 0 {
		med = lat[len(lat)/2]
	}
	out(map[string]any{"n": *fCount - int(fails), "fails": fails, "secs": el, "per_sec": float64(*fCount-int(fails)) / el, "median_ms": med, "client_cpu": u1 - u0 + y1 - y0})
	for _, h := range hosts {
		h.Close()
	}
}

func cmdStreams(ai peer.AddrInfo) {
	h := newHost(false, 1)
	defer h.Close()
	connect(h, ai)
	var next int64
	payload := make([]byte, 32)
	t0 := time.Now()
	var wg sync.WaitGroup
	for i := 0; i < *fConc; i++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			got := make([]byte, 32)
			for int(atomic.AddInt64(&next, 1)) <= *fCount {
				s, err := h.NewStream(context.Background(), ai.ID, echoID)
				die(err)
				_, err = s.Write(payload)
				die(err)
				_, err = io.ReadFull(s, got)
				die(err)
				die(s.CloseWrite())
				if _, err = s.Read(got[:1]); err != io.EOF {
					die(fmt.Errorf("want EOF, got %v", err))
				}
				s.Close()
			}
		}()
	}
	wg.Wait()
	el := time.Since(t0).Seconds()
	out(map[string]any{"n": *fCount, "secs": el, "per_sec": float64(*fCount) / el})
}

func newPubsub(ctx context.Context, h host.Host, extra ...pubsub.Option) *pubsub.PubSub {
	p := pubsub.DefaultGossipSubParams()
	opts := []pubsub.Option{
		pubsub.WithPeerOutboundQueueSize(*fQueue),
		pubsub.WithValidateQueueSize(*fQueue),
		pubsub.WithMaxMessageSize(*fMaxSize),
	}
	switch *fSign {
	case "strict":
		// The id is said, not left to the default: implementations differ in theirs.
		opts = append(opts, pubsub.WithMessageIdFn(func(m *pubsubMsg) string { return string(m.GetFrom()) + string(m.GetSeqno()) }))
	case "none":
		opts = append(opts, pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), pubsub.WithNoAuthor())
		// StrictNoSign has no (from, seqno); derive the id from the first 8 payload bytes + length.
		opts = append(opts, pubsub.WithMessageIdFn(func(m *pubsubMsg) string {
			d := m.GetData()
			if len(d) > 8 {
				d = d[:8]
			}
			return hex.EncodeToString(d)
		}))
	case "eth2":
		p.D, p.Dlo, p.Dhi = 8, 6, 12
		p.HeartbeatInterval = 700 * time.Millisecond
		p.HistoryLength, p.HistoryGossip = 6, 3
		pubsub.TimeCacheDuration = 768 * time.Second
		opts = append(opts, pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), pubsub.WithNoAuthor(),
			pubsub.WithMessageIdFn(func(m *pubsubMsg) string { return eth2ID(m.GetTopic(), m.GetData()) }))
	default:
		die(fmt.Errorf("unknown signing policy %q", *fSign))
	}
	if *fHeartbeat > 0 {
		p.HeartbeatInterval = time.Duration(*fHeartbeat) * time.Millisecond
	}
	opts = append(append(opts, pubsub.WithGossipSubParams(p)), extra...)
	ps, err := pubsub.NewGossipSub(ctx, h, opts...)
	die(err)
	return ps
}

func eth2ID(topic string, data []byte) string {
	h := sha256.New()
	var l [8]byte
	binary.LittleEndian.PutUint64(l[:], uint64(len(topic)))
	dec, err := snappy.Decode(nil, data)
	if err == nil {
		h.Write([]byte{1, 0, 0, 0})
	} else {
		h.Write([]byte{0, 0, 0, 0})
		dec = data
	}
	h.Write(l[:])
	h.Write([]byte(topic))
	h.Write(dec)
	return string(h.Sum(nil)[:20])
}

func cmdPubsubListen() {
	ctx := context.Background()
	h := newHost(true, 0)
	serveBasics(h)
	ps := newPubsub(ctx, h)
	t, err := ps.Join(*fTopic)
	die(err)
	sub, err := t.Subscribe(pubsub.WithBufferSize(*fQueue))
	die(err)
	announce(h)
	done := make(chan struct{})
	go func() {
		n, bytes := 0, 0
		var first, last time.Time
		for n < *fCount {
			c := ctx
			cancel := func() {}
			if n > 0 {
				c, cancel = context.WithTimeout(ctx, 5*time.Second)
			}
			m, err := sub.Next(c)
			cancel()
			if err != nil {
				break
			}
			if m.ReceivedFrom == h.ID() {
				continue
			}
			last = time.Now()
			if n == 0 {
				first = last
			}
			n++
			bytes += len(m.Data)
		}
		secs := last.Sub(first).Seconds()
		per := 0.0
		if secs > 0 {
			per = float64(n-1) / secs
		}
		u, y := cpu()
		out(map[string]any{"n": n, "want": *fCount, "secs": secs, "per_sec": per, "MBps": float64(bytes) / 1e6 / secs, "user": u, "sys": y})
		time.Sleep(500 * time.Millisecond)
		close(done)
	}()
	waitEnd(done)
	h.Close()
}

func cmdPubsub(ai peer.AddrInfo) {
	ctx := context.Background()
	h := newHost(false, 1)
	defer h.Close()
	ps := newPubsub(ctx, h)
	t, err := ps.Join(*fTopic)
	die(err)
	if *fSubscribe {
		sub, err := t.Subscribe(pubsub.WithBufferSize(*fQueue))
		die(err)
		go func() {
			for {
				if _, err := sub.Next(ctx); err != nil {
					return
				}
			}
		}()
	}
	connect(h, ai)
	for i := 0; len(t.ListPeers()) == 0; i++ {
		if i > 1000 {
			die(fmt.Errorf("remote never subscribed"))
		}
		time.Sleep(10 * time.Millisecond)
	}
	if *fSubscribe {
		time.Sleep(1500 * time.Millisecond)
	}
	data := random(*fSize, uint64(time.Now().UnixNano())) // incompressible, or snappy makes the benchmark about nothing
	t0 := time.Now()
	for i := 0; i < *fCount; i++ {
		m := make([]byte, *fSize)
		copy(m, data)
		if len(m) >= 8 {
			binary.BigEndian.PutUint64(m, uint64(i))
		}
		if *fSign == "eth2" {
			m = snappy.Encode(nil, m)
		}
		die(t.Publish(ctx, m))
		if *fRate > 0 {
			if d := time.Until(t0.Add(time.Duration(i) * time.Second / time.Duration(*fRate))); d > 0 {
				time.Sleep(d)
			}
		}
	}
	el := time.Since(t0).Seconds()
	out(map[string]any{"n": *fCount, "secs": el, "per_sec": float64(*fCount) / el})
	time.Sleep(*fLinger)
}

// idle: count hosts in this process, one connection each; reports the (gopeer) server's memory before, during and after.
func cmdIdle(ai peer.AddrInfo) {
	h := newHost(false, 1)
	connect(h, ai)
	getStats(h, ai.ID, "gc")
	time.Sleep(500 * time.Millisecond)
	s0 := getStats(h, ai.ID, "gc")
	hosts := make([]host.Host, *fCount)
	for i := range hosts {
		hosts[i] = newHost(false, int64(i)+2)
		connect(hosts[i], ai)
	}
	time.Sleep(*fHold)
	s1 := getStats(h, ai.ID, "")
	getStats(h, ai.ID, "gc")
	time.Sleep(500 * time.Millisecond)
	s2 := getStats(h, ai.ID, "gc")
	n := float64(*fCount)
	out(map[string]any{"n": *fCount, "before": s0, "during_nogc": s1, "during_gc": s2,
		"rss_per_conn_nogc_KiB": float64(s1.RSS-s0.RSS) / n / 1024,
		"rss_per_conn_gc_KiB":   float64(s2.RSS-s0.RSS) / n / 1024,
		"heap_per_conn_gc_KiB":  (float64(s2.HeapAlloc) - float64(s0.HeapAlloc)) / n / 1024,
		"stack_per_conn_gc_KiB": (float64(s2.StackInuse) - float64(s0.StackInuse)) / n / 1024,
		"goroutines_per_conn":   float64(s2.Goroutines-s0.Goroutines) / n,
	})
	for _, x := range hosts {
		x.Close()
	}
	h.Close()
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "gopeer listen|identify|perf|ping|handshakes|streams|pubsub-listen|pubsub|mesh|idle|hold [ADDR] [flags]")
		os.Exit(2)
	}
	flag.Var(&fConnect, "connect", "mesh: an address to dial (may be repeated)")
	sub := os.Args[1]
	var pos, rest []string
	args := os.Args[2:]
	for i := 0; i < len(args); i++ {
		if strings.HasPrefix(args[i], "-") {
			rest = append(rest, args[i])
			name := strings.TrimLeft(args[i], "-")
			if !strings.Contains(name, "=") && i+1 < len(args) {
				f := flag.Lookup(name)
				if f == nil {
					die(fmt.Errorf("unknown flag %s", args[i]))
				}
				if b, ok := f.Value.(interface{ IsBoolFlag() bool }); !ok || !b.IsBoolFlag() {
					i++
					rest = append(rest, args[i])
				}
			}
		} else {
			pos = append(pos, args[i])
		}
	}
	flag.CommandLine.Parse(rest)
	switch sub {
	case "listen":
		cmdListen()
	case "pubsub-listen":
		cmdPubsubListen()
	case "mesh":
		cmdMesh()
	case "identify":
		cmdIdentify(target(pos))
	case "perf":
		cmdPerf(target(pos))
	case "ping":
		cmdPing(target(pos))
	case "handshakes":
		cmdHandshakes(target(pos))
	case "streams":
		cmdStreams(target(pos))
	case "pubsub":
		cmdPubsub(target(pos))
	case "idle":
		cmdIdle(target(pos))
	case "hold":
		cmdHold(target(pos))
	default:
		die(fmt.Errorf("unknown command %q", sub))
	}
}
