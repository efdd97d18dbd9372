// Command companion runs beside the API server of a sandbox and does the work of pods: it runs the
// controllers of cert-manager and trust-manager, and serves the webhooks and aggregated APIs that
// charts register. See README.md.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
)

func main() {
	// Linked libraries add their own flags to the default set.
	flags := flag.NewFlagSet("companion", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "kubeconfig of the sandbox's API server")
	socket := flags.String("egress-socket", "", "Unix socket on which the API server's connections to Services arrive")
	proxies := flags.String("proxies-socket", "", "Unix socket that tells what every running proxy carries, for tests")
	ready := flags.String("ready-file", "", "file written once the egress socket is served")
	_ = flags.Parse(os.Args[1:])
	log.SetFlags(log.LstdFlags | log.Lmicroseconds)
	klog.SetOutput(os.Stderr)
	ctrl.SetLogger(klog.Background())
	if *kubeconfig == "" || *socket == "" {
		flags.Usage()
		os.Exit(2)
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		log.Fatalf("kubeconfig %s: %v", *kubeconfig, err)
	}
	// The API server's priority and fairness suffices; client-side limits would slow injection.
	config.QPS, config.Burst = -1, -1
	config.UserAgent = "sandbox-companion"
	// Protobuf costs both sides less than JSON, but only the built-in kinds support it.
	builtIn := rest.CopyConfig(config)
	builtIn.ContentType = runtime.ContentTypeProtobuf
	builtIn.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	client, err := kubernetes.NewForConfig(builtIn)
	if err != nil {
		log.Fatalf("client: %v", err)
	}

	state, err := newState(ctx, client)
	if err != nil {
		log.Fatalf("cluster state: %v", err)
	}
	if err := serveLoadBalancers(ctx, state, client); err != nil {
		log.Fatalf("load balancers: %v", err)
	}
	authority := &certManagerAuthority{state: state, config: config}
	identities, err := newIdentities(state)
	if err != nil {
		log.Fatalf("identities: %v", err)
	}
	trust := &trustManager{state: state, config: config}
	egress, err := newEgress(state, backends(state, authority, trust), newAdminServer(identities))
	if err != nil {
		log.Fatalf("egress: %v", err)
	}
	listener, err := egress.listen(*socket)
	if err != nil {
		log.Fatalf("egress socket: %v", err)
	}
	if *proxies != "" {
		if err := serveProxies(ctx, *proxies, identities); err != nil {
			log.Fatalf("proxies socket: %v", err)
		}
	}
	go supervise(ctx, "identities", identities.run)
	go supervise(ctx, "cert-manager", func(ctx context.Context) error {
		return runCertManager(ctx, state, *kubeconfig, config)
	})
	go supervise(ctx, "cert-manager's cainjector", func(ctx context.Context) error {
		return runCAInjector(ctx, state, config)
	})
	go supervise(ctx, "cert-manager's webhook", authority.run)
	go supervise(ctx, "trust-manager", trust.run)
	if *ready != "" {
		if err := os.WriteFile(*ready, []byte("ready\n"), 0o600); err != nil {
			log.Fatalf("ready file: %v", err)
		}
	}
	log.Printf("serving %s", *socket)
	go func() {
		<-ctx.Done()
		listener.Close()
	}()
	egress.serve(ctx, listener)
}

// supervise restarts a part of the companion whenever it stops, as the kubelet does a container.
func supervise(ctx context.Context, name string, run func(context.Context) error) {
	for ctx.Err() == nil {
		if err := run(ctx); err != nil && ctx.Err() == nil {
			log.Printf("%s stopped: %v", name, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}
