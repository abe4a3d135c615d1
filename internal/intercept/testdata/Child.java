// Child MODE ARGS: a Java program for the tests of interception.
import java.io.*;
import java.net.*;
import java.net.http.*;
import java.nio.*;
import java.nio.channels.*;

public class Child {
	public static void main(String[] a) throws Exception {
		switch (a[0]) {
		case "client": client(a[1], Integer.parseInt(a[2]), Integer.parseInt(a[3]), Integer.parseInt(a[4])); break;
		case "serve": serve(); break;
		case "nioserve": nioServe(); break;
		case "hostname": System.out.println(InetAddress.getLocalHost().getHostName()); break;
		}
	}

	static void client(String host, int port, int udp, int http) throws Exception {
		try (Socket s = new Socket(host, port)) {
			s.getOutputStream().write('s');
			System.out.println("socket " + (char) s.getInputStream().read() + " " + s.getRemoteSocketAddress());
		}
		try (SocketChannel c = SocketChannel.open()) {
			c.configureBlocking(false);
			Selector sel = Selector.open();
			SelectionKey k = c.register(sel, SelectionKey.OP_CONNECT);
			c.connect(new InetSocketAddress(host, port));
			sel.select(60000);
			System.out.println("nio " + c.finishConnect());
		}
		try {
			new Socket("198.51.100.61", 80).close();
		} catch (ConnectException e) {
			System.out.println("blocking: " + e.getMessage());
		}
		try (SocketChannel c = SocketChannel.open()) {
			c.configureBlocking(false);
			Selector sel = Selector.open();
			c.register(sel, SelectionKey.OP_CONNECT);
			c.connect(new InetSocketAddress("198.51.100.63", 80));
			sel.select(60000);
			c.finishConnect();
		} catch (IOException e) {
			System.out.println("selector: " + e.getMessage());
		}
		try (DatagramSocket d = new DatagramSocket()) {
			d.setSoTimeout(60000);
			byte[] b = new byte[100];
			d.send(new DatagramPacket("dgram".getBytes(), 5, InetAddress.getByName(host), udp));
			DatagramPacket p = new DatagramPacket(b, b.length);
			d.receive(p);
			System.out.println("datagram " + new String(b, 0, p.getLength()) + " " + p.getSocketAddress());
		}
		HttpResponse<String> r = HttpClient.newHttpClient().send(
			HttpRequest.newBuilder(URI.create("http://shop.test:" + http + "/")).build(), HttpResponse.BodyHandlers.ofString());
		System.out.println("http " + r.body());
	}

	static void serve() throws Exception {
		ServerSocket l = new ServerSocket(0);
		System.out.println("listening " + l.getLocalPort());
		for (;;) {
			try (Socket s = l.accept()) {
				System.out.println("client " + s.getRemoteSocketAddress());
				s.getOutputStream().write("hello".getBytes());
			}
		}
	}

	static void nioServe() throws Exception {
		ServerSocketChannel l = ServerSocketChannel.open();
		l.bind(new InetSocketAddress("127.0.0.1", 0));
		System.out.println("listening " + ((InetSocketAddress) l.getLocalAddress()).getPort());
		for (;;) {
			try (SocketChannel s = l.accept()) {
				System.out.println("client " + s.getRemoteAddress());
				s.write(ByteBuffer.wrap("hello".getBytes()));
			}
		}
	}
}
