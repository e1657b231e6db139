// discv5peer is the go-ethereum discv5 peer of the interop tests and benchmarks; sub-commands, flags and lines as in
// docs/interop.md, the same as those of tests/interop/js-discv5.
package main

import (
	"bufio"
	"crypto/ecdsa"
	crand "crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/log"
	"github.com/ethereum/go-ethereum/p2p/discover"
	"github.com/ethereum/go-ethereum/p2p/enode"
	"github.com/ethereum/go-ethereum/p2p/enr"
)

// geth relays only nodes that answered a check of its own, one at a time and by default within 3 s: a test of what it
// relays would wait for most of its time.
const checkInterval = 100 * time.Millisecond

var (
	fIP        = flag.String("ip", "127.0.0.1", "address of our end: 127.0.0.1 or ::1, the same on both sides")
	fPort      = flag.Int("port", 0, "listen: UDP port, 0 for any")
	fKey       = flag.String("key", "", "listen: secp256k1 key in hex, fresh without it")
	fBootnodes = flag.String("bootnodes", "", "listen: records to start from, comma separated")
	fFill      = flag.Int("fill", 0, "listen: so many further nodes in this process that know this one")
	fEth2      = flag.String("eth2", "", "listen: eth2 field of the record, in hex")
	fAttnets   = flag.String("attnets", "", "listen: attnets field of the record, in hex")
	fCount     = flag.Int("count", 1, "requests")
	fConc      = flag.Int("concurrency", 1, "requests at a time, each from a node of its own")
	fDistances = flag.String("distances", "0", "findnode: distances, comma separated")
	fProtocol  = flag.String("protocol", "echo", "talkreq: protocol")
	fSize      = flag.Int("size", 32, "talkreq: size of the request")
	fTarget    = flag.String("target", "", "lookup: node id in hex, random without it")
	fVerbosity = flag.Int("v", 0, "geth's log on standard error: 1 (errors) to 5 (every packet)")
)

func die(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "discv5peer:", err)
		os.Exit(1)
	}
}

func out(line map[string]any) {
	text, err := json.Marshal(line)
	die(err)
	fmt.Println(string(text))
}

type node struct {
	*discover.UDPv5
	db *enode.DB
}

func (n *node) close() {
	n.Close()
	n.db.Close()
}

func parse(record string) (*enode.Node, error) { return enode.Parse(enode.ValidSchemes, record) }

func start(port int, key *ecdsa.PrivateKey, bootnodes []*enode.Node, fields map[string]string) *node {
	ip := net.ParseIP(*fIP)
	if !ip.IsLoopback() {
		die(fmt.Errorf("--ip %s: loopback only", *fIP))
	}
	network := "udp6"
	if ip.To4() != nil {
		network = "udp4"
	}
	socket, err := net.ListenUDP(network, &net.UDPAddr{IP: ip, Port: port})
	die(err)
	db, err := enode.OpenDB("") // in memory
	die(err)
	local := enode.NewLocalNode(db, key)
	local.SetStaticIP(ip)
	local.SetFallbackUDP(socket.LocalAddr().(*net.UDPAddr).Port)
	for name, value := range fields {
		raw, err := hex.DecodeString(value)
		die(err)
		if len(raw) > 0 {
			local.Set(enr.WithEntry(name, raw))
		}
	}
	config := discover.Config{PrivateKey: key, Bootnodes: bootnodes, PingInterval: checkInterval}
	if *fVerbosity > 0 {
		level := log.FromLegacyLevel(*fVerbosity)
		config.Log = log.NewLogger(log.NewTerminalHandlerWithLevel(os.Stderr, level, false))
	}
	udp, err := discover.ListenV5(socket, local, config)
	die(err)
	udp.RegisterTalkHandler("echo", func(_ *enode.Node, _ *net.UDPAddr, request []byte) []byte { return request })
	return &node{udp, db}
}

// fresh is a node with a new key on any port, which knows nobody.
func fresh() *node {
	key, err := crypto.GenerateKey()
	die(err)
	return start(0, key, nil, nil)
}

func about(n *enode.Node) map[string]any {
	return map[string]any{"id": n.ID().String(), "enr": n.String(), "seq": n.Seq()}
}

func abouts(nodes []*enode.Node) []map[string]any {
	all := []map[string]any{}
	for _, n := range nodes {
		all = append(all, about(n))
	}
	return all
}

func table(n *node) []map[string]any {
	all := []map[string]any{}
	for _, bucket := range n.Nodes() {
		for _, entry := range bucket {
			one := about(entry.Node)
			one["live"] = entry.Live
			all = append(all, one)
		}
	}
	return all
}

// ask sends dest what the words ask for, or looks up an id without one.
func ask(n *node, op string, dest *enode.Node, words ...string) (any, error) {
	switch {
	case op == "lookup" && len(words) == 1:
		target, err := enode.ParseID(words[0])
		if err != nil {
			return nil, err
		}
		return abouts(n.Lookup(target)), nil
	case dest == nil:
	case op == "ping":
		pong, err := n.Ping(dest)
		if err != nil {
			return nil, err
		}
		return map[string]any{"seq": pong.ENRSeq, "ip": pong.ToIP.String(), "port": pong.ToPort}, nil
	case op == "enr":
		record, err := n.RequestENR(dest)
		if err != nil {
			return nil, err
		}
		return about(record), nil
	case op == "findnode" && len(words) == 1:
		var distances []uint
		for _, text := range strings.Split(words[0], ",") {
			distance, err := strconv.ParseUint(text, 10, 16)
			if err != nil {
				return nil, err
			}
			distances = append(distances, uint(distance))
		}
		found, err := n.Findnode(dest, distances)
		return abouts(found), err
	case op == "talkreq" && len(words) == 2:
		request, err := hex.DecodeString(words[1])
		if err != nil {
			return nil, err
		}
		response, err := n.TalkRequest(dest, words[0], request)
		return hex.EncodeToString(response), err
	}
	return nil, fmt.Errorf("%s: not like this", op)
}

// obey does what a line of a listener's standard input asks for.
func obey(n *node, words []string) (any, error) {
	switch {
	case words[0] == "nodes":
		return table(n), nil
	case words[0] == "self":
		self := about(n.Self())
		self["ip"], self["port"] = *fIP, n.Self().UDP()
		return self, nil
	case words[0] == "lookup" || len(words) == 1:
		return ask(n, words[0], nil, words[1:]...)
	}
	dest, err := parse(words[1])
	if err != nil {
		return nil, err
	}
	return ask(n, words[0], dest, words[2:]...)
}

func listen() {
	key, err := crypto.GenerateKey()
	if *fKey != "" {
		key, err = crypto.HexToECDSA(*fKey)
	}
	die(err)
	var bootnodes []*enode.Node
	for _, record := range strings.FieldsFunc(*fBootnodes, func(r rune) bool { return r == ',' }) {
		n, err := parse(record)
		die(err)
		bootnodes = append(bootnodes, n)
	}
	n := start(*fPort, key, bootnodes, map[string]string{"eth2": *fEth2, "attnets": *fAttnets})
	for range *fFill {
		extra := fresh()
		_, err := extra.Ping(n.Self())
		die(err)
	}
	fmt.Println("LISTEN", n.Self())
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) == 0 {
			continue
		}
		answer, err := obey(n, words)
		if err != nil {
			out(map[string]any{"op": words[0], "error": err.Error()})
		} else {
			out(map[string]any{"op": words[0], "answer": answer})
		}
	}
}

// rate calls request *fCount times from *fConc callers and prints one line: how long it took, and the last answer.
func rate(op string, request func(caller, i int) (any, error)) {
	var mutex sync.Mutex
	var micros []float64
	var last any
	fails := 0
	var next atomic.Int64
	var callers sync.WaitGroup
	start := time.Now()
	for caller := range *fConc {
		callers.Go(func() {
			for i := int(next.Add(1)) - 1; i < *fCount; i = int(next.Add(1)) - 1 {
				asked := time.Now()
				answer, err := request(caller, i)
				took := time.Since(asked)
				mutex.Lock()
				if err == nil {
					micros = append(micros, float64(took.Nanoseconds())/1e3)
					last = answer
				} else if fails++; fails == 1 {
					fmt.Fprintln(os.Stderr, "first failure:", err)
				}
				mutex.Unlock()
			}
		})
	}
	callers.Wait()
	secs := time.Since(start).Seconds()
	sort.Float64s(micros)
	line := map[string]any{"op": op, "n": len(micros), "fails": fails, "secs": secs, "concurrency": *fConc,
		"per_sec": float64(len(micros)) / secs, "answer": last}
	if len(micros) > 0 {
		line["median_us"], line["p99_us"] = micros[len(micros)/2], micros[len(micros)*99/100]
	}
	out(line)
}

// requests measures requests in sessions that stand: the handshake comes before the clock starts.
func requests(op string, dest *enode.Node) {
	callers := make([]*node, *fConc)
	for i := range callers {
		callers[i] = fresh()
		_, err := callers[i].Ping(dest)
		die(err)
		callers[i].AddKnownNode(dest) // where its lookups start
	}
	request := make([]byte, *fSize)
	crand.Read(request)
	target := *fTarget
	if target == "" {
		var id enode.ID
		crand.Read(id[:])
		target = id.String()
	}
	words := map[string][]string{
		"findnode": {*fDistances},
		"talkreq":  {*fProtocol, hex.EncodeToString(request)},
		"lookup":   {target},
	}[op]
	rate(op, func(caller, _ int) (any, error) {
		answer, err := ask(callers[caller], op, dest, words...)
		if err == nil && op == "talkreq" && *fProtocol == "echo" && answer != words[1] {
			err = errors.New("the echo differs")
		}
		return answer, err
	})
}

// sessions measures handshakes: every ping comes from a node that nobody has seen, made before the clock starts.
func sessions(dest *enode.Node) {
	nodes := make([]*node, *fCount)
	for i := range nodes {
		nodes[i] = fresh()
	}
	rate("sessions", func(_, i int) (any, error) { return ask(nodes[i], "ping", dest) })
}

func main() {
	usage := "discv5peer listen [flags] | ping|enr|findnode|talkreq|lookup|sessions ENR [flags]"
	if len(os.Args) < 2 {
		die(errors.New(usage))
	}
	op, rest := os.Args[1], os.Args[2:]
	if op == "listen" {
		flag.CommandLine.Parse(rest)
		listen()
		return
	}
	if len(rest) == 0 {
		die(errors.New(usage))
	}
	flag.CommandLine.Parse(rest[1:])
	dest, err := parse(rest[0])
	die(err)
	switch op {
	case "ping", "enr", "findnode", "talkreq", "lookup":
		requests(op, dest)
	case "sessions":
		sessions(dest)
	default:
		die(errors.New(usage))
	}
}
