"""A camera: GStreamer's RTSP server with a few streams. Run by the system's Python, which has GStreamer's bindings.

Arguments: a port, 0 for any; an MP4 to serve as a recording; `open`, or the way to ask for a password: BASIC or DIGEST.
Prints the port, then serves until it is killed. With `--check` it only tells whether all that it needs is there.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402 - the versions come first

SOURCE = "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=160,height=96,framerate=25/1 ! "
STREAMS = {
    "/h264": SOURCE + "openh264enc gop-size=10 ! rtph264pay name=pay0 pt=96",
    "/h265": SOURCE + "x265enc tune=zerolatency key-int-max=10 ! rtph265pay name=pay0 pt=96",
    "/jpeg": SOURCE + "jpegenc ! rtpjpegpay name=pay0",
    "/vp8": SOURCE + "vp8enc deadline=1 keyframe-max-dist=10 ! rtpvp8pay name=pay0 pt=96",
    "/sound": "audiotestsrc is-live=true ! mulawenc ! rtppcmupay name=pay0",
}
ELEMENTS = ("videotestsrc", "openh264enc", "x265enc", "jpegenc", "vp8enc", "rtph264pay", "qtdemux", "h264parse")


def password(auth):
    """Whoever says me:secret may look; nobody else."""
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    auth.add_digest("me", "secret", token)
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic("me", "secret"), token)


def mount(mounts, path, pipeline, *, guarded=False):
    factory = GstRtspServer.RTSPMediaFactory.new()
    factory.set_launch(f"( {pipeline} )")
    if guarded:
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role("user", "media.factory.access", True)
        permissions.add_permission_for_role("user", "media.factory.construct", True)
        factory.set_permissions(permissions)
    mounts.add_factory(path, factory)


def main(port, recording, method):
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(port)
    mounts = server.get_mount_points()
    guarded = method != "open"
    for path, pipeline in STREAMS.items():
        mount(mounts, path, pipeline, guarded=guarded)
    mount(mounts, "/recording", f"filesrc location={recording} ! qtdemux ! h264parse ! rtph264pay name=pay0 pt=96")
    if guarded:
        auth = GstRtspServer.RTSPAuth.new()
        auth.set_supported_methods(getattr(GstRtsp.RTSPAuthMethod, method))
        password(auth)
        server.set_auth(auth)
    if not server.attach(None):
        sys.exit(f"port {port} is taken")
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


Gst.init(None)
if sys.argv[1] == "--check":
    sys.exit(", ".join(name for name in ELEMENTS if not Gst.ElementFactory.find(name)) or 0)
main(*sys.argv[1:])
