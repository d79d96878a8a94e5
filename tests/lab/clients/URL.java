import java.net.URL;

class Fetch {
    public static void main(String[] urls) throws Exception {
        for (String url : urls) new URL(url).openStream().transferTo(System.out);
    }
}
