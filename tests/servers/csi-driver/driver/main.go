// A CSI driver for tests on nodes that share a file system: a volume is a directory below a root,
// and is mounted by a bind.
//
// Its worth is that Kubernetes treats the volume as it would a disk of a cloud: it is attached to a
// node before it is mounted, and to one node at a time unless it may be written by many; a node
// that is lost keeps it. All of that is done by Kubernetes' own controllers and by external-attacher,
// and this program is honest towards them: it refuses what a disk would.
//
//	driver --endpoint=/run/csi.sock --root=/volumes --controller
//	driver --endpoint=/run/csi.sock --root=/volumes --node=node-a --registration=/run/reg.sock
//
// A volume whose PersistentVolume has the attribute `mounts: one` is mounted into one pod at a time,
// as by drivers that keep a volume for one pod even on its own node.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const (
	name    = "shared-folder.csi.test"
	version = "1.0.0"
)

func main() {
	endpoint := flag.String("endpoint", "", "socket to answer at")
	root := flag.String("root", "", "directory of the volumes")
	controller := flag.Bool("controller", false, "attach and detach")
	node := flag.String("node", "", "mount and unmount, on the node of this name")
	announce := flag.String("registration", "", "socket at which the kubelet asks who is here")
	flag.Parse()

	server := grpc.NewServer(grpc.UnaryInterceptor(logged))
	csi.RegisterIdentityServer(server, &identity{})
	if *controller {
		csi.RegisterControllerServer(server, &attacher{root: *root, attached: map[string]map[string]bool{}})
	}
	if *node != "" {
		csi.RegisterNodeServer(server, &mounter{root: *root, node: *node, mounted: map[string]string{}})
	}
	serve(server, *endpoint)
	if *announce != "" {
		announcer := grpc.NewServer()
		registration.RegisterRegistrationServer(announcer, &registrar{endpoint: *endpoint})
		serve(announcer, *announce)
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGINT, syscall.SIGTERM)
	<-ended
}

func serve(server *grpc.Server, socket string) {
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal(server.Serve(listener)) }()
}

func logged(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	answer, err := handle(ctx, request)
	log.Printf("%s %v: %v", info.FullMethod, request, err)
	return answer, err
}

// directory gives where a volume is, which has to be there.
func directory(root, volume string) (string, error) {
	if volume == "" || volume != filepath.Base(volume) {
		return "", status.Errorf(codes.InvalidArgument, "no volume can be called %q", volume)
	}
	path := filepath.Join(root, volume)
	if _, err := os.Stat(path); err != nil {
		return "", status.Errorf(codes.NotFound, "there is no volume %s: %v", volume, err)
	}
	return path, nil
}

// Who it is.

type identity struct {
	csi.UnimplementedIdentityServer
}

func (*identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: name, VendorVersion: version}, nil
}

func (*identity) GetPluginCapabilities(
	context.Context, *csi.GetPluginCapabilitiesRequest,
) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{{
		Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{
			Type: csi.PluginCapability_Service_CONTROLLER_SERVICE,
		}},
	}}}, nil
}

func (*identity) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

// Attaching: which nodes have which volume.

type attacher struct {
	csi.UnimplementedControllerServer
	root     string
	lock     sync.Mutex
	attached map[string]map[string]bool
}

func (*attacher) ControllerGetCapabilities(
	context.Context, *csi.ControllerGetCapabilitiesRequest,
) (*csi.ControllerGetCapabilitiesResponse, error) {
	answer := &csi.ControllerGetCapabilitiesResponse{}
	for _, kind := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		answer.Capabilities = append(answer.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{
				Rpc: &csi.ControllerServiceCapability_RPC{Type: kind},
			},
		})
	}
	return answer, nil
}

func (a *attacher) ControllerPublishVolume(
	_ context.Context, request *csi.ControllerPublishVolumeRequest,
) (*csi.ControllerPublishVolumeResponse, error) {
	if _, err := directory(a.root, request.VolumeId); err != nil {
		return nil, err
	}
	a.lock.Lock()
	defer a.lock.Unlock()
	nodes := a.attached[request.VolumeId]
	if !anywhere(request.VolumeCapability) {
		for other := range nodes {
			if other != request.NodeId {
				return nil, status.Errorf(
					codes.FailedPrecondition, "volume %s is attached to %s", request.VolumeId, other)
			}
		}
	}
	if nodes == nil {
		nodes = map[string]bool{}
		a.attached[request.VolumeId] = nodes
	}
	nodes[request.NodeId] = true
	return &csi.ControllerPublishVolumeResponse{}, nil
}

func (a *attacher) ControllerUnpublishVolume(
	_ context.Context, request *csi.ControllerUnpublishVolumeRequest,
) (*csi.ControllerUnpublishVolumeResponse, error) {
	a.lock.Lock()
	defer a.lock.Unlock()
	delete(a.attached[request.VolumeId], request.NodeId)
	return &csi.ControllerUnpublishVolumeResponse{}, nil
}

// anywhere tells whether a volume may be on several nodes at once.
func anywhere(capability *csi.VolumeCapability) bool {
	switch capability.GetAccessMode().GetMode() {
	case csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY,
		csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER,
		csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:
		return true
	}
	return false
}

// Mounting, on one node.

type mounter struct {
	csi.UnimplementedNodeServer
	root    string
	node    string
	lock    sync.Mutex
	mounted map[string]string // volumes, by where they are mounted
}

func (m *mounter) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: m.node}, nil
}

func (*mounter) NodeGetCapabilities(
	context.Context, *csi.NodeGetCapabilitiesRequest,
) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{Capabilities: []*csi.NodeServiceCapability{{
		Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{
			Type: csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		}},
	}}}, nil
}

func (m *mounter) NodePublishVolume(
	_ context.Context, request *csi.NodePublishVolumeRequest,
) (*csi.NodePublishVolumeResponse, error) {
	source, err := directory(m.root, request.VolumeId)
	if err != nil {
		return nil, err
	}
	m.lock.Lock()
	defer m.lock.Unlock()
	target := request.TargetPath
	if m.mounted[target] == request.VolumeId {
		return &csi.NodePublishVolumeResponse{}, nil
	}
	if request.VolumeContext["mounts"] == "one" {
		for other, volume := range m.mounted {
			if volume == request.VolumeId {
				return nil, status.Errorf(
					codes.FailedPrecondition, "volume %s is mounted at %s", volume, other)
			}
		}
	}
	if err := bind(source, target, request.Readonly); err != nil {
		return nil, status.Errorf(codes.Internal, "%s at %s: %v", source, target, err)
	}
	m.mounted[target] = request.VolumeId
	return &csi.NodePublishVolumeResponse{}, nil
}

func bind(source, target string, readonly bool) error {
	if err := os.MkdirAll(target, 0o750); err != nil {
		return err
	}
	if err := syscall.Mount(source, target, "", syscall.MS_BIND, ""); err != nil || !readonly {
		return err
	}
	if err := syscall.Mount("", target, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		syscall.Unmount(target, 0)
		return err
	}
	return nil
}

func (m *mounter) NodeUnpublishVolume(
	_ context.Context, request *csi.NodeUnpublishVolumeRequest,
) (*csi.NodeUnpublishVolumeResponse, error) {
	m.lock.Lock()
	defer m.lock.Unlock()
	// What is not mounted is as it is to be: after a start of the node nothing is.
	if err := syscall.Unmount(request.TargetPath, 0); err != nil && err != syscall.EINVAL && err != syscall.ENOENT {
		return nil, status.Errorf(codes.Internal, "%s: %v", request.TargetPath, err)
	}
	delete(m.mounted, request.TargetPath)
	// Never more than this directory: below it was the volume.
	if err := syscall.Rmdir(request.TargetPath); err != nil && err != syscall.ENOENT {
		return nil, status.Errorf(codes.Internal, "%s: %v", request.TargetPath, err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// What the kubelet is told, which finds the socket in its directory of plugins.

type registrar struct {
	registration.UnimplementedRegistrationServer
	endpoint string
}

func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type:              registration.CSIPlugin,
		Name:              name,
		Endpoint:          r.endpoint,
		SupportedVersions: []string{version},
	}, nil
}

func (*registrar) NotifyRegistrationStatus(
	_ context.Context, told *registration.RegistrationStatus,
) (*registration.RegistrationStatusResponse, error) {
	if !told.PluginRegistered {
		log.Fatalf("the kubelet does not take it: %s", told.Error)
	}
	return &registration.RegistrationStatusResponse{}, nil
}
