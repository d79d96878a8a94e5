import java.net.Socket;
import java.net.URI;
import javax.net.ssl.SSLSocketFactory;

class Fetch {
    public static void main(String[] urls) throws Exception {
        for (String url : urls) {
            String host = URI.create(url).getHost();
            boolean tls = url.startsWith("https");
            try (Socket socket = tls ? SSLSocketFactory.getDefault().createSocket(host, 443) : new Socket(host, 80)) {
                String request = "GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n";
                socket.getOutputStream().write(request.getBytes());
                socket.getInputStream().transferTo(System.out);
            }
        }
    }
}
