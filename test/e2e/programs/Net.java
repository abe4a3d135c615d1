// The Java program of the end-to-end tests. See programs_test.go for its steps.
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.net.DatagramPacket;
import java.net.DatagramSocket;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.PortUnreachableException;
import java.net.Socket;
import java.net.SocketTimeoutException;
import java.net.UnknownHostException;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executors;

public class Net {
	static final int PATIENCE = 120000, RESEND = 10000; // a datagram is sent again, as it may be lost

	public static void main(String[] a) throws Exception {
		for (List<String> args = Arrays.asList(a); !args.isEmpty();) {
			int words = args.get(0).equals("resolve") ? 2 : 3;
			say(String.join(" ", args.subList(0, words)) + "\t" + step(args));
			args = args.subList(words, args.size());
		}
	}

	static String step(List<String> a) throws Exception {
		try {
			switch (a.get(0)) {
			case "listen": return listen(Integer.parseInt(a.get(1)), a.get(2));
			case "tcp": return tcp(a.get(1), Integer.parseInt(a.get(2)));
			case "udp": return udp(a.get(1), Integer.parseInt(a.get(2)), true);
			case "udpto": return udp(a.get(1), Integer.parseInt(a.get(2)), false);
			case "resolve": return resolve(a.get(1));
			}
			throw new IllegalArgumentException(a.get(0));
		} catch (UnknownHostException e) {
			return "nxdomain";
		} catch (PortUnreachableException e) {
			return "ECONNREFUSED";
		} catch (IOException e) {
			return NAMES.getOrDefault(String.valueOf(e.getMessage()).split(" \\(")[0], e.toString());
		}
	}

	static final Map<String, String> NAMES = Map.of(
		"Connection refused", "ECONNREFUSED", "No route to host", "EHOSTUNREACH", "Network is unreachable", "ENETUNREACH",
		"Connection timed out", "ETIMEDOUT", "Connection reset", "ECONNRESET");

	static synchronized void say(String line) {
		System.out.print(line + "\n");
		System.out.flush();
	}

	static String tcp(String host, int port) throws IOException {
		try (Socket s = new Socket()) {
			InetSocketAddress to = new InetSocketAddress(host, port);
			if (to.isUnresolved()) {
				throw new UnknownHostException(host);
			}
			s.connect(to, PATIENCE);
			s.setSoTimeout(PATIENCE);
			s.getOutputStream().write("GET / HTTP/1.0\r\n\r\n".getBytes(StandardCharsets.US_ASCII));
			String[] lines = new String(s.getInputStream().readAllBytes(), StandardCharsets.UTF_8).strip().split("\n");
			return lines[lines.length - 1];
		}
	}

	static String udp(String host, int port, boolean connected) throws IOException {
		InetSocketAddress to = new InetSocketAddress(InetAddress.getByName(host), port);
		try (DatagramSocket s = new DatagramSocket()) {
			s.setSoTimeout(RESEND);
			DatagramPacket hello = new DatagramPacket("hello".getBytes(StandardCharsets.US_ASCII), 5);
			if (connected) {
				s.connect(to);
			} else {
				hello.setSocketAddress(to);
			}
			DatagramPacket answer = new DatagramPacket(new byte[1500], 1500);
			for (int left = PATIENCE / RESEND;;) {
				s.send(hello);
				try {
					s.receive(answer);
					break;
				} catch (SocketTimeoutException e) {
					if (--left == 0) {
						throw e;
					}
				}
			}
			if (!answer.getSocketAddress().equals(to)) {
				return "answer from " + answer.getSocketAddress();
			}
			return new String(answer.getData(), 0, answer.getLength(), StandardCharsets.UTF_8);
		}
	}

	static String resolve(String name) throws IOException {
		List<String> all = new ArrayList<>();
		for (InetAddress a : InetAddress.getAllByName(name)) {
			all.add(a.getHostAddress());
		}
		return String.join(" ", all);
	}

	static String listen(int port, String name) throws Exception {
		HttpServer server = HttpServer.create(new InetSocketAddress(port), 128);
		server.setExecutor(Executors.newCachedThreadPool());
		server.createContext("/", x -> answer(x, name));
		server.start();
		say("listening " + name + " " + port);
		Thread.currentThread().join();
		return "";
	}

	static void answer(HttpExchange x, String name) throws IOException {
		try {
			MessageDigest sum = MessageDigest.getInstance("SHA-256");
			long size = 0;
			byte[] b = new byte[65536];
			InputStream in = x.getRequestBody();
			for (int n; (n = in.read(b)) >= 0; size += n) {
				sum.update(b, 0, n);
			}
			InetSocketAddress peer = x.getRemoteAddress();
			String agent = x.getRequestHeaders().getFirst("User-Agent");
			String line = String.format(
				"{\"name\":\"%s\",\"peer\":\"[%s]:%d\",\"method\":\"%s\",\"path\":\"%s\",\"agent\":\"%s\",\"size\":%d,\"sha256\":\"%s\"}",
				name, peer.getAddress().getHostAddress().split("%")[0], peer.getPort(), x.getRequestMethod(),
				x.getRequestURI().getPath(), agent == null ? "" : agent, size, HexFormat.of().formatHex(sum.digest()));
			say(line);
			byte[] body = (line + "\n").getBytes(StandardCharsets.UTF_8);
			x.sendResponseHeaders(200, body.length);
			x.getResponseBody().write(body);
		} catch (java.security.NoSuchAlgorithmException e) {
			throw new IOException(e);
		} finally {
			x.close();
		}
	}
}
